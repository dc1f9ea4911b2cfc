"""`bahdanau-hf score` says what sacrebleu's own command says, to the last digit."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bahdanau_hf import cli
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.metrics.analysis import compare_systems, scores_by_length, scores_by_novelty
from tests.helpers.tiny_checkpoint import PAIRS

SOURCES = [source for source, _ in PAIRS]
REFERENCES = [target for _, target in PAIRS]
OTHER_REFERENCES = [target.replace("我", "俺").replace("？", "?") for target in REFERENCES]
PREDICTIONS = [
    "今晚 打电话给我。",
    *REFERENCES[1:5],
    *("Tom的茶很热", "", "車站在哪裏？"),
    *REFERENCES[8:],
]
ENGLISH = [text.replace("the", "a").replace("know", "knew ") for text in SOURCES]
WORSE = [text[: len(text) * 2 // 3] for text in PREDICTIONS]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    texts = {
        "sources": SOURCES,
        "first": REFERENCES,
        "second": OTHER_REFERENCES,
        "predictions": PREDICTIONS,
        "worse": WORSE,
        "english": ENGLISH,
        "lowered": [text.lower() for text in SOURCES],
    }
    for name, lines in texts.items():
        content = "".join(f"{line}\n" for line in lines)
        (tmp_path / name).write_text(content, encoding="utf-8")
    return {name: str(tmp_path / name) for name in texts}


def score(capsysbinary: pytest.CaptureFixture[bytes], *arguments: str) -> dict[str, Any]:
    capsysbinary.readouterr()
    status = cli.main(["score", *arguments])
    out, err = capsysbinary.readouterr()
    assert status == 0, err.decode()
    result: dict[str, Any] = json.loads(out)
    return result


def sacrebleu(*arguments: str) -> str:
    command = [sys.executable, "-m", "sacrebleu", *arguments, "-m", "bleu", "chrf", "-w", "10"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(
    ("predictions", "references", "target_lang"),
    [
        ("predictions", ["first"], "zh"),
        ("predictions", ["first", "second"], "zh"),
        ("english", ["sources"], "en"),
        ("english", ["lowered", "sources"], "en"),
    ],
)
def test_as_sacrebleu_to_the_last_digit(
    files: dict[str, str], capsysbinary, predictions: str, references: list[str], target_lang: str
) -> None:
    names = [files[name] for name in references]
    ours = score(
        capsysbinary,
        *("--predictions", files[predictions], "--target_lang", target_lang),
        *("--references", *names),
    )
    tokenize = {"zh": "zh", "en": "13a"}[target_lang]
    theirs = json.loads(sacrebleu(*names, "-i", files[predictions], "-tok", tokenize))
    for name, scored in zip(("bleu", "chrf"), theirs, strict=True):
        assert f"{ours[name]:.10f}" == f"{scored['score']:.10f}"
        assert ours[f"{name}_signature"] == scored["signature"]
        assert 0 < ours[name] < 100
    assert f"nrefs:{len(references)}|" in ours["bleu_signature"]
    assert "comparison" not in ours
    assert "by_source_length" not in ours


def test_the_paired_bootstrap_is_sacrebleus(files: dict[str, str], capsysbinary) -> None:
    ours = score(
        capsysbinary,
        *("--predictions", files["predictions"], "--compare", files["worse"]),
        *("--references", files["first"]),
    )["comparison"]
    assert ours["baseline"] == files["worse"]
    # As JSON, sacrebleu's command cannot print what its paired tests find.
    systems = ["-i", files["worse"], files["predictions"]]
    table = sacrebleu(files["first"], *systems, "-tok", "zh", "--paired-bs", "-f", "text")
    table = re.sub(r"\x1b\[[\d;]*m", "", table)
    numbers = re.compile(r"(\d+\.\d{10}) \((\d+\.\d{10}) ± (\d+\.\d{10})\)")
    before, after = (numbers.findall(line) for line in table.splitlines() if numbers.search(line))
    p_values = re.findall(r"\(p = (\d\.\d{4})\)", table)
    names = ("bleu", "chrf")
    for name, was, became, p_value in zip(names, before, after, p_values, strict=True):
        found = ours[name]
        keys = ("score", "mean", "confidence_interval")
        assert tuple(f"{found[key]:.10f}" for key in keys) == became
        assert tuple(f"{found[f'baseline_{key}']:.10f}" for key in keys) == was
        assert f"{found['p_value']:.4f}" == p_value
        assert found["signature"] in table
        assert found["difference"] == found["score"] - found["baseline_score"] > 0


def test_scores_by_length_of_files(files: dict[str, str], capsysbinary) -> None:
    arguments = ["--predictions", files["predictions"], "--references", files["first"]]
    result = score(capsysbinary, *arguments, "--sources", files["sources"])
    groups = scores_by_length(SOURCES, PREDICTIONS, REFERENCES)
    assert result["by_source_length"] == [group.as_dict() for group in groups]
    assert [g["shortest"] for g in result["by_source_length"]] == [1, 6, 11]
    assert result["sources"] == files["sources"]
    chinese = score(capsysbinary, *arguments, "--sources", files["sources"], "--source_lang", "zh")
    assert chinese["by_source_length"][-1]["shortest"] > 11


def test_a_model_is_scored_by_length_and_compared(
    checkpoint: Path, files: dict[str, str], tmp_path: Path, capsysbinary
) -> None:
    test_file = tmp_path / "test.tsv"
    rows = zip(SOURCES, OTHER_REFERENCES, strict=True)
    test_file.write_text("".join(f"{en}\t{zh}\n" for en, zh in rows), encoding="utf-8")
    result = score(
        capsysbinary,
        *("--model", str(checkpoint), "--device", "cpu", "--test_file", str(test_file)),
        *("--compare", files["worse"]),
    )
    translator = Translator.from_pretrained(checkpoint, device="cpu")
    texts = [t.text for t in translator.translate(SOURCES)]
    groups = scores_by_length(SOURCES, texts, OTHER_REFERENCES)
    assert result["by_source_length"] == [group.as_dict() for group in groups]
    compared = compare_systems(texts, WORSE, OTHER_REFERENCES)
    for name, comparison in compared.items():
        assert result["comparison"][name] == comparison.as_dict()


def test_scores_by_novelty_and_bad_rows(
    checkpoint: Path, files: dict[str, str], tmp_path: Path, capsysbinary
) -> None:
    """Training pairs come as files of pairs do; both ways to score say the same of them."""
    rows = [f"{zh}\t{en}\n" for en, zh in zip(SOURCES, REFERENCES, strict=True)]
    (tmp_path / "train.tsv").write_text("".join(["zh\ten\n", *rows[:8]]), encoding="utf-8")
    (tmp_path / "test.tsv").write_text("".join(["zh\ten\n", *rows, "one\n"]), encoding="utf-8")
    trained = ["--train_file", str(tmp_path / "train.tsv")]
    model = ["--model", str(checkpoint), "--device", "cpu", "--test_file"]
    by_model = score(capsysbinary, *model, str(tmp_path / "test.tsv"), *trained, "--skip_bad_rows")
    assert by_model["num_bad_rows_left_out"] == 1
    assert by_model["num_empty_pairs_left_out"] == 0
    assert by_model["note"] == "only 16 sentences: this says little"
    texts = [t.text for t in Translator.from_pretrained(checkpoint).translate(SOURCES)]
    groups = scores_by_novelty(SOURCES, texts, REFERENCES, SOURCES[:8])
    assert by_model["by_novelty"] == [group.as_dict() for group in groups]
    assert len(groups) > 1
    predictions = ["--predictions", files["predictions"], "--references", files["first"]]
    by_files = score(capsysbinary, *predictions, "--sources", files["sources"], *trained)
    groups = scores_by_novelty(SOURCES, PREDICTIONS, REFERENCES, SOURCES[:8])
    assert by_files["by_novelty"] == [group.as_dict() for group in groups]


def test_files_that_do_not_go_together(
    checkpoint: Path,
    files: dict[str, str],
    tmp_path: Path,
    capsysbinary,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n")))
    (tmp_path / "short").write_text("one\ntwo\n")
    (tmp_path / "test.tsv").write_text("en\tzh\nCall us.\t联系我们。\n")
    (tmp_path / "fr.tsv").write_text("en\tfr\nCall us.\tAppelle-nous.\n")
    (tmp_path / "bad.tsv").write_text("en\tzh\nCall us.\n")
    short, test_file = str(tmp_path / "short"), str(tmp_path / "test.tsv")
    both = ["--predictions", files["predictions"], "--references", files["first"]]
    model = ["--model", str(checkpoint), "--device", "cpu", "--test_file", test_file]
    for arguments, message in (
        ([*both, "--compare", short], "16 lines and .*short has 2: they must be aligned"),
        ([*both, "--sources", short], "16 lines and .*short has 2: they must be aligned"),
        ([*both, "--compare", str(tmp_path / "none")], "cannot read"),
        ([*both, "--compare", "-", "--sources", "-"], "only one of the files"),
        ([*model, "--compare", short], "short has 2 lines, but 1 pairs of .* are scored"),
        ([*model, "--compare", str(tmp_path / "none")], "cannot read"),
        ([*both, "--train_file", test_file], "--train_file needs the --sources"),
        ([*model, "--train_file", str(tmp_path / "bad.tsv")], "bad.tsv:2: .*--skip_bad_rows"),
        (
            [*model[:-1], str(tmp_path / "fr.tsv")],
            "'en', 'fr'. The model translates en to zh: give a file of these two",
        ),
        ([*model, "--sources", short], "--sources goes with --predictions"),
        ([*model, "--replace_unknown", short], "short:1: not a source word, one tab"),
    ):
        capsysbinary.readouterr()
        assert cli.main(["score", *arguments]) == 2
        out, err = capsysbinary.readouterr()
        assert out == b""
        assert re.search(message, err.decode()), err.decode()
        assert err.count(b"\n") == 1
