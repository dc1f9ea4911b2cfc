"""Runs of a tiny model on the 64 pairs: a second or two each, in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

from bahdanau_hf import train
from bahdanau_hf.training.arguments import parse_arguments
from bahdanau_hf.training.pairs import RunPairs
from bahdanau_hf.training.run import Run
from bahdanau_hf.training.setup import (
    open_output_dir,
    prepare_model,
    prepare_tokenizer,
    start_accelerator,
)
from tests.helpers.places import PAIRS

# Dropout everywhere: a run that is resumed must draw it as it would have been drawn.
TINY = {
    "train_file": PAIRS,
    "validation_split_percentage": 20,
    "tokenizer_kind": "word-char",
    "min_frequency": 1,
    "max_source_length": 20,
    "max_target_length": 24,
    "embedding_size": 7,
    "hidden_size": 9,
    "encoder_layers": 2,
    "dropout": 0.2,
    "attention_dropout": 0.1,
    "per_device_train_batch_size": 8,
    "logging_steps": 1,
    "max_train_steps": 4,
    "seed": 11,
}

NO_DROPOUT = {"dropout": 0, "attention_dropout": 0}
# Where one is changed, the other would have no effect.
INSTEAD = {
    "max_tokens_per_batch": "per_device_train_batch_size",
    "num_train_epochs": "max_train_steps",
    "validation_file": "validation_split_percentage",
}


def flags(output_dir: Path, **changes: Any) -> list[str]:
    """The arguments of `bahdanau_hf.train`; a change to None leaves a flag out."""
    left_out = {other: None for name, other in INSTEAD.items() if changes.get(name) is not None}
    values = {"output_dir": output_dir, **TINY, **left_out, **changes}
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def prepare(output_dir: Path, **changes: Any) -> Run:
    """A run ready for its first step, or for the step after a checkpoint's."""
    settings = parse_arguments(flags(output_dir, **changes))
    accelerator = start_accelerator(settings)
    checkpoint = open_output_dir(accelerator, settings)
    set_seed(settings.train.seed)
    pairs = RunPairs.load(settings.data)
    tokenizer = prepare_tokenizer(accelerator, settings, pairs.texts["train"], checkpoint)
    pairs.encode(tokenizer, settings.data)
    model = prepare_model(settings, tokenizer)
    return Run(accelerator, settings, pairs, tokenizer, model, checkpoint)


def logged(output_dir: Path) -> list[dict[str, Any]]:
    """The lines of `metrics.jsonl` without what the clock says."""
    lines = (output_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    clocks = ("seconds", "tokens_per_second")
    return [{k: v for k, v in json.loads(line).items() if k not in clocks} for line in lines]


def train_script(output_dir: Path, **changes: Any) -> int:
    """`bahdanau_hf.train` with these changes: the status that it ends with."""
    return train.main(flags(output_dir, **changes))
