"""Memory that stays: what a process holds after many batches, hardly two of the same shape.

Whatever is kept for every new shape (a laid-out copy of weights, a compiled product) is not seen
by the peak of one step: it adds up. `python -m benchmarks.memory shapes 300 [bfloat16]` trains a
model of recipes/base.yaml's size for so many steps, `python -m benchmarks.memory sentences 2000
[int8]` translates so many sentences; both print what the process holds on the way.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil  # type: ignore[import-untyped]
import torch
import yaml

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration, Translator
from bahdanau_hf.data.batching import LengthBucketBatchSampler

from .training_speed import Training
from .workload import Batch, random_batch

BASE = Path(__file__).parents[1] / "bahdanau_hf" / "recipes" / "base.yaml"
PAIRS = 20_000
MIDDLE = 15  # tokens
LONGEST = 60  # tokens of a side
MOST_WORDS = 40  # of a translation
MOST_TOGETHER = 64  # sentences of one call


def megabytes_held() -> float:
    """What the process holds in memory now."""
    return psutil.Process().memory_info().rss / 2**20


def base_recipe() -> dict[str, Any]:
    """What recipes/base.yaml says."""
    return yaml.safe_load(BASE.read_text(encoding="utf-8"))


def base_config(**changes: Any) -> BahdanauConfig:
    """The model of recipes/base.yaml."""
    known = BahdanauConfig().to_dict()
    fields = {name: value for name, value in base_recipe().items() if name in known}
    return BahdanauConfig(**fields | changes)


def batches_of_any_shape() -> Iterator[Batch]:
    """Endlessly, bucketed as base.yaml has them, from sentences of 2 to `LONGEST` tokens."""
    numbers = np.random.default_rng(0)
    sources = np.rint(np.exp(numbers.uniform(np.log(2), np.log(LONGEST), PAIRS))).astype(int)
    targets = np.rint(sources * numbers.normal(1, 0.15, PAIRS)).clip(2, LONGEST).astype(int)
    recipe = base_recipe()
    most, size = recipe["max_tokens_per_batch"], recipe["vocab_size"]
    sampler = LengthBucketBatchSampler(sources, targets, max_tokens=most, seed=0)
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        for rows in sampler:
            yield random_batch(sources[rows], targets[rows], epoch, size, size)
        epoch += 1


def base_batch(most_tokens: int | None = None) -> Batch:
    """One bucketed batch of base.yaml's, of sentences of middle length.

    Args:
        most_tokens: of the batch, in the place of base.yaml's.
    """
    recipe = base_recipe()
    rows = (most_tokens or recipe["max_tokens_per_batch"]) // MIDDLE
    lengths = np.linspace(MIDDLE - 2, MIDDLE, rows).astype(int)
    size = recipe["vocab_size"]
    return random_batch(lengths, lengths, 0, size, size)


def train(steps: int, marks: list[int], bf16: bool = False) -> dict[int, float]:
    """Train the base model.

    Args:
        steps: how many.
        marks: after which of them to look.
        bf16: autocast to bfloat16.

    Returns:
        Megabytes that the process held after each mark, which are also printed.
    """
    torch.manual_seed(0)
    training = Training(BahdanauForConditionalGeneration(base_config()), (), bf16)
    held: dict[int, float] = {}
    shapes = set()
    for step, batch in zip(range(1, steps + 1), batches_of_any_shape(), strict=False):
        training.batches = (batch,)
        training()
        shapes.add((*batch.input_ids.shape, batch.labels.shape[1]))
        if step in marks:
            held[step] = megabytes_held()
            print(f"step {step}: {held[step]:.0f} MB, {len(shapes)} shapes", flush=True)
    return held


def translate(count: int, marks: list[int], int8: bool = False) -> dict[int, float]:
    """Translate sentences of any length, any number together, greedily and with 5 beams in turn.

    Args:
        count: how many sentences.
        marks: after how many of them to look.
        int8: multiply in 8 bits.

    Returns:
        Megabytes that the process held at most after any call since the mark before (between two
        calls memory may be given back), which are also printed.
    """
    from .bundled import load_bundle

    bundle = load_bundle()
    model = BahdanauForConditionalGeneration(base_config(vocab_size=len(bundle.tokenizer))).eval()
    model.generation_config.bad_words_ids = None
    model.generation_config.eos_token_id = None
    translator = Translator(model, bundle.tokenizer, dtype="int8" if int8 else None)
    numbers = random.Random(0)
    parts = bundle.sentences(len(bundle.train))
    done, calls = 0, 0
    held: dict[int, float] = {}
    for mark in sorted({*marks, count}):
        most = 0.0
        while done < mark:
            together = min(numbers.randint(1, MOST_TOGETHER), mark - done)
            texts = [
                " ".join(numbers.choices(parts, k=numbers.randint(1, 6))) for _ in range(together)
            ]
            translator.translate(
                texts, num_beams=(1, 5)[calls % 2], max_new_tokens=numbers.randint(1, MOST_WORDS)
            )
            done, calls = done + together, calls + 1
            most = max(most, megabytes_held())
        if mark in marks:
            held[mark] = most
            print(f"{mark} sentences: {held[mark]:.0f} MB, {calls} calls", flush=True)
    return held


def main(kind: str, count: int, number_format: str = "float32", *marks: str) -> None:
    """Print the megabytes at each mark; the last line has them all, as JSON.

    Args:
        kind: `shapes` to train, `sentences` to translate.
        count: of steps or sentences.
        number_format: `float32`; `bfloat16` to train, `int8` to translate.
        *marks: default: every 50 steps, every 500 sentences.
    """
    torch.set_num_threads(1)
    every = 50 if kind == "shapes" else 500
    places = list(map(int, marks)) or list(range(every, count + 1, every))
    if kind == "shapes":
        held = train(count, places, bf16=number_format == "bfloat16")
    else:
        held = translate(count, places, int8=number_format == "int8")
    print(json.dumps(held))
