"""What the tests of the Hub share."""

import shutil
from pathlib import Path

import pytest

from bahdanau_hf.hub.model_card import write_model_card
from bahdanau_hf.hub.notebook import write_notebook
from bahdanau_hf.metrics.analysis import score_groups
from tests.helpers.finished_run import HYPOTHESES, SCORES, SETTINGS, TRAINED_ON, save
from tests.helpers.tiny_checkpoint import PAIRS


@pytest.fixture
def run_folder(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint as a run leaves it: with records, a map, and much that is not published."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "tea-model"))
    save(folder / "settings.json", SETTINGS)
    texts = ([en for en, _ in PAIRS], HYPOTHESES, [zh for _, zh in PAIRS])
    groups = score_groups(*texts, TRAINED_ON)
    save(folder / "eval_results.json", {"test": SCORES | groups, "validation": {"bleu": 99.0}})
    lines = ["source\treference\thypothesis\tsentence_bleu"]
    rows = zip(PAIRS, HYPOTHESES, strict=True)
    lines += [f"{en}\t{zh}\t{hypothesis}\t0" for (en, zh), hypothesis in rows]
    (folder / "test_predictions.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "alignment.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    for name in ("metrics.jsonl", "report.html", "pytorch_model.bin", "stray_bahdanau.py"):
        (folder / name).write_text("")
    (folder / "checkpoint-100").mkdir()
    write_model_card(folder)
    write_notebook(folder)
    return folder
