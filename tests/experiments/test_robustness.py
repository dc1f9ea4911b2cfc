"""Ways of typing badly, and what the table says of a model that minds them or does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from experiments import robustness
from tests.helpers.made_pairs import PAIRS, write_tsv


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Is it so?!", "Is it so"),
        ("是吗？", "是吗"),
        ("Wait ...", "Wait"),
        ("A.b", "A.b"),
        ("?", ""),
    ],
)
def test_final_marks(text: str, plain: str) -> None:
    assert robustness.without_mark(text) == plain


def test_a_slip_is_one_and_inside_a_word() -> None:
    text = "The station is near the river, said she."
    seen = {robustness.with_slip(f"{text} {n}") for n in range(300)}
    for slipped in seen:
        words = list(zip(slipped.split(), text.split(), strict=False))
        ((wrong, right),) = [(a, b) for a, b in words if a != b]
        assert wrong[0] == right[0]
        assert len(right.strip(".,")) >= 4
        assert abs(len(wrong) - len(right)) <= 1
        if len(wrong) == len(right):
            assert sorted(wrong) == sorted(right), "two letters swapped"
    shapes = {len(slipped.rpartition(" ")[0]) - len(text) for slipped in seen}
    assert shapes == {-1, 0, 1}
    assert robustness.with_slip(text) == robustness.with_slip(text) != text
    assert robustness.with_slip("I am Bob") == "I am Bob"
    assert all(robustness.with_slip("feed" + "e" * n) != "feed" + "e" * n for n in range(9))


def test_the_table(tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """A model that knows the sentences in any case, and writes a mark where it reads one."""
    known = {en.lower().rstrip("."): zh.rstrip("。") for en, zh in PAIRS}

    class Model:
        def translate(self, texts: list[str], num_beams: int) -> list[Any]:
            assert num_beams == 2
            plain = [known.get(text.lower().rstrip("."), "不知道") for text in texts]
            marks = ["。" * text.endswith(".") for text in texts]
            return [SimpleNamespace(text=a + b) for a, b in zip(plain, marks, strict=True)]

    def load(name: str, device: str) -> Model:
        return Model()

    monkeypatch.setattr(robustness.Translator, "from_pretrained", load)
    test_file = write_tsv(tmp_path / "test.tsv", PAIRS)
    assert robustness.main(["run", "a-model", test_file, "--num_beams=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[3:-1]]
    found = {name: cells for name, *cells in rows}
    count = str(len(PAIRS))
    assert found.keys() == robustness.WAYS.keys()
    assert found["lower case"] == ["100.0", "+0.0", "–", "+0.0", count, "100%"]
    bleu, change, _, plain, changed, kept = found["no final mark"]
    assert (plain, changed, kept) == ("+0.0", count, "100%")
    assert float(bleu) == pytest.approx(100 + float(change))
    assert float(change) < -10
    assert float(found["one slip"][3]) < -10
    assert "tok:zh" in lines[-1]


def test_the_table_of_noise_is_what_the_page_shows() -> None:
    assert robustness.noise_table(robustness.RESULTS) in robustness.PAGE.read_text("utf-8")
