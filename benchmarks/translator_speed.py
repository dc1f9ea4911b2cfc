"""`Translator` on sentences of mixed length, against batches of equal length without any text."""

from __future__ import annotations

from collections import defaultdict

import torch

from bahdanau_hf import Translator

from .bundled import load_bundle, make_model
from .contenders import EMBEDDING_SIZE, HIDDEN_SIZE
from .results import Goal, Section
from .stopwatch import Contender, race
from .workload import BATCH_SIZE, MEAN_TARGET


def measure(quick: bool) -> Section:
    """Race the translator against bare `generate`."""
    bundle = load_bundle()
    count = 1_000 if quick else 10_000
    texts = bundle.sentences(count)
    translator = Translator(make_model(bundle.tokenizer, ends=False), bundle.tokenizer, BATCH_SIZE)
    by_length: dict[int, list[list[int]]] = defaultdict(list)
    for ids in bundle.tokenizer(texts)["input_ids"]:
        by_length[len(ids)].append(ids)
    batches = [
        torch.tensor(rows[start : start + BATCH_SIZE])
        for rows in by_length.values()
        for start in range(0, len(rows), BATCH_SIZE)
    ]

    def translate() -> None:
        translator.translate(texts, num_beams=1, max_new_tokens=MEAN_TARGET)

    def generate() -> None:
        for input_ids in batches:
            mask = torch.ones_like(input_ids)
            translator.model.generate(input_ids, attention_mask=mask, max_length=MEAN_TARGET + 1)

    names = f"Translator, {count:,} sentences", "generate, equal lengths, no text"
    works = (translate, generate)
    contenders = {n: Contender(work, count) for n, work in zip(names, works, strict=True)}
    timings = race(contenders, rounds=2)
    section = Section(
        "Translator",
        f"Width {EMBEDDING_SIZE}/{HIDDEN_SIZE}, float32, greedy, {MEAN_TARGET} words each; the "
        "bundled English sentences in the order of their file.",
    )
    section.add_race(timings, "sentences/CPU s")
    share = timings[names[0]].times_as_fast_as(timings[names[1]])
    section.goals.append(Goal(f"{names[0]} / {names[1]}", 0.85, share))
    return section
