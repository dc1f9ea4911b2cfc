"""What a run that has ended has written down, for tests of what is made of it."""

import json
from pathlib import Path
from typing import Any

from tests.helpers.tiny_checkpoint import PAIRS

SCORES = {
    "bleu": 31.2345,
    "bleu_signature": "nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:2.6.0",
    "chrf": 25.5,
    "chrf_signature": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
    "num_sentences": 16,
    "num_beams": 4,
}
SETTINGS: dict[str, Any] = {
    "model": {"dropout": 0.1, "initializer": "xavier"},
    "data": {"source_lang": "en", "target_lang": "zh", "train_file": None, "dataset_name": None},
    "train": {"optimizer": "adamw", "learning_rate": 0.0017, "seed": 7, "hub_token": "hf_secret"},
    "versions": {"bahdanau_hf": "0.1.0", "torch": "2.13.0"},
    "num_parameters": 56789,
    "num_pairs": {"train": 3456, "validation": 12, "test": 16},
    "dropped": {"train": {"read": 3500, "empty": 0, "too_long": 44, "kept": 3456}},
}
# Every second one is wrong, so that the groups of the card differ.
HYPOTHESES = [zh if i % 2 else "今天是星期天。" for i, (_, zh) in enumerate(PAIRS)]
# The first is one of the test sentences, another nearly one.
TRAINED_ON = [PAIRS[0][0], PAIRS[1][0] + " now", "nothing of the kind"]


def save(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def text_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")
