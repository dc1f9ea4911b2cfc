"""Two runs side by side: what differs is shown, what is the same is not, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bahdanau_hf.errors import InputError
from bahdanau_hf.reporting.run_comparison import write_comparison


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    folders = (tmp_path / "plain", tmp_path / "deep<b>")
    for number, folder in enumerate(folders):
        folder.mkdir()
        settings = {
            "model": {"hidden_size": 256, "readout": ["linear", "deep"][number]},
            "train": {"seed": 1, "output_dir": str(folder), "hub_token": f"hf_{number}"},
        }
        results = {"test": {"bleu": 20.0 + number, "bleu_signature": "eff:no"}, "confidence": {}}
        steps = [{"step": 10 * i, "loss": 5.0 - number, "eval_bleu": i} for i in (1, 2)]
        lines = ["source\treference\thypothesis\tsentence_bleu", "Call us.\t联系\t联系\t100.0"]
        lines += [f"Go.\t走\t{'走去'[number]}\t{100 - 90 * number}", "broken\tline"]
        lines += [f"Who?\t谁\t{'谁是'[number]}\u2028。\t{50 - number}"]
        (folder / "settings.json").write_text(json.dumps(settings))
        (folder / "eval_results.json").write_text(json.dumps(results))
        (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(s)}\n" for s in steps))
        (folder / "test_predictions.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folders


def test_what_differs_stands_side_by_side(runs: tuple[Path, Path], tmp_path: Path) -> None:
    page = write_comparison(*runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<th>plain</th><th>deep&lt;b&gt;</th>" in page
    assert "<tr><th>test, bleu</th><td>20</td><td>21</td></tr>" in page
    assert "<tr><th>model, readout</th><td>linear</td><td>deep</td></tr>" in page
    for absent in ("seed", "hidden_", "hf_0", "output_", "eff:no", "deep<b>", "confidence"):
        assert absent not in page
    for title in ("Training loss", "Validation BLEU"):
        assert f'aria-label="{title}"' in page
    assert 'aria-label="Validation loss' not in page  # neither run has logged it
    assert page.count('<polyline class="line') == 4


def test_sentences_come_by_how_far_their_scores_are_apart(
    runs: tuple[Path, Path], tmp_path: Path
) -> None:
    page = write_comparison(*runs, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Sentences translated differently: 2." in page
    assert "<dd>Call us.</dd>" not in page  # the same in both
    assert page.index("<dd>Go.</dd>") < page.index("<dd>Who?</dd>")
    assert "<dt>plain</dt><dd>走 <b>100</b></dd>" in page
    assert "<dt>deep&lt;b&gt;</dt><dd>去 <b>10</b></dd>" in page


def test_runs_with_nothing_but_settings(runs: tuple[Path, Path], tmp_path: Path) -> None:
    for folder in runs:
        for name in ("eval_results.json", "metrics.jsonl", "test_predictions.tsv"):
            (folder / name).unlink()
    page = write_comparison(runs[0], runs[0], tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No scores yet." in page
    assert "The settings of both runs are the same." in page
    assert "No sentence of a test split" in page


def test_a_folder_without_a_run(runs: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no run in .*nowhere.*settings.json"):
        write_comparison(runs[0], tmp_path / "nowhere", tmp_path / "page.html")
