"""The phrase book is translated, compared with all of its references, and shown."""

import csv

from experiments import phrasebook
from tests.helpers.tiny_checkpoint import PAIRS


def test_it_counts_a_translation_that_equals_any_reference(
    checkpoint, tmp_path, monkeypatch, capsys
) -> None:
    (call, call_zh), (other, other_zh), *_ = PAIRS
    rows = [("en", "zh", "zh2"), (call, "不对。", call_zh), (other, f"不{other_zh}", "")]
    with (tmp_path / "book.tsv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter="\t").writerows(rows)
    monkeypatch.setattr(phrasebook, "SENTENCES", tmp_path / "book.tsv")
    assert phrasebook.read_phrasebook()[1] == (other, [f"不{other_zh}"])
    monkeypatch.setattr("sys.argv", ["phrasebook", str(checkpoint)])
    phrasebook.main()
    *lines, _, scores = capsys.readouterr().out.splitlines()
    right = [f"= {call}", f"    {call_zh}"]
    assert lines == [*right, f"  {other}", f"    {other_zh}", f"    (不{other_zh})"]
    assert scores.startswith("1 of 2 equal a reference; BLEU ")
    assert "chrF" in scores
