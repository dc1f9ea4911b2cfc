"""Ideas for a better recipe, each tried alone against the recipe as it is.

    python -m benchmarks.ledger RECIPE --train_file ... --validation_file ... --cpu_seconds 100

Every idea changes some flags of the recipe. All get the same CPU time: the variants race over
batches of their own pairs first, and each trains for the steps that the budget buys at its rate.
What counts is greedy BLEU on validation, which is not the split that the targets are measured on.
Numbers go to benchmarks/results/quality/ledger, a file for each idea; a second call tries what is
missing.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from bahdanau_hf.arguments import parse_arguments
from bahdanau_hf.metrics import score_translations

from .machine import command_line, describe_machine
from .stopwatch import race
from .study_training import learn, prepare_study, racer, translate, validation_loss

RESULTS = Path(__file__).parent / "results" / "quality" / "ledger"


@dataclass(frozen=True)
class Idea:
    """A change of the recipe.

    Attributes:
        title: what it is.
        flags: of scripts/train.py.
        predicted: gain of validation BLEU that was expected before it was tried.
    """

    title: str
    flags: tuple[str, ...]
    predicted: str


IDEAS = {
    "vocab-4000": Idea("4,000 instead of 8,000 subwords", ("--vocab_size=4000",), "+0.5"),
    "vocab-16000": Idea("16,000 subwords", ("--vocab_size=16000",), "−0.5"),
    "untied": Idea(
        "output layer not tied to the embedding", ("--tie_word_embeddings=false",), "−0.5"
    ),
    "linear-readout": Idea(
        "linear instead of maxout readout",
        ("--readout=linear", "--tie_word_embeddings=false"),
        "−1",
    ),
    "no-smoothing": Idea("no label smoothing", ("--label_smoothing_factor=0",), "−0.3"),
    "less-dropout": Idea(
        "dropout 0.1 instead of 0.3",
        ("--embedding_dropout=0.1", "--readout_dropout=0.1"),
        "+1 in so short a training",
    ),
    "large-batches": Idea("batches of 3,000 tokens", ("--max_tokens_per_batch=3000",), "−1"),
    "wider": Idea("512 instead of 384 wide", ("--hidden_size=512",), "−0.5"),
    "xavier": Idea(
        "Xavier instead of orthogonal recurrent weights", ("--initializer=xavier",), "−0.3"
    ),
    "linear-decay": Idea("linear instead of cosine decay", ("--lr_scheduler_type=linear",), "0"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Try the ideas that have no file yet."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ledger",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--ideas", nargs="+", choices=IDEAS, default=list(IDEAS))
    parser.add_argument("--cpu_seconds", type=float, default=100.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--warmup", type=float, default=0.1, help="share of the steps")
    parser.add_argument("--float32", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args, recipe = parser.parse_known_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("bahdanau_hf").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    args.results.mkdir(parents=True, exist_ok=True)
    rate = None
    for name in ["as-it-is", *args.ideas]:
        path = args.results / f"{name}.json"
        if path.exists():
            rate = rate or json.loads(path.read_text(encoding="utf-8"))["steps_a_second"]
            continue
        result = try_idea(name, recipe, args, rate)
        rate = rate or result["steps_a_second"]
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(result), flush=True)
    return 0


def try_idea(
    name: str, recipe: Sequence[str], args: argparse.Namespace, base_rate: float | None
) -> dict[str, Any]:
    """Train a variant with each seed.

    Args:
        name: of the idea, or `as-it-is`.
        recipe: and flags.
        args: budget and seeds.
        base_rate: steps a CPU second of the recipe as it is, in its own race. A variant races
            against it again, so that what the machine does meanwhile hurts both.
    """
    flags = IDEAS[name].flags if name in IDEAS else ()
    study = prepare_study(*parse_arguments([*recipe, *flags]), bf16=not args.float32)
    contenders = {"variant": racer(study, "attention")}
    if base_rate is not None:
        as_it_is = prepare_study(*parse_arguments(list(recipe)), bf16=not args.float32)
        contenders["as it is"] = racer(as_it_is, "attention")
    timings = race(contenders, rounds=3)
    rate = timings["variant"].rate
    if base_rate is not None:
        rate = base_rate * timings["variant"].times_as_fast_as(timings["as it is"])
    steps = max(1, round(args.cpu_seconds * rate))
    sources, references = study.pairs("validation")
    runs = []
    for seed in args.seeds:
        model = study.make("attention", seed)
        done = learn(study, model, steps, seed, args.warmup)
        lines = translate(study, model, sources, num_beams=1)
        scores = score_translations(lines, references, target_lang=study.data_args.target_lang)
        loss = validation_loss(study, model, most=len(sources))
        runs.append({"seed": seed, "bleu": round(scores.bleu, 2), "loss": round(loss, 4), **done})
    machine = describe_machine()
    machine["command"] = command_line("benchmarks.ledger")
    return {
        "idea": name,
        "flags": list(flags),
        "machine": machine,
        "cpu_seconds": args.cpu_seconds,
        "steps_a_second": round(rate, 3),
        "steps": steps,
        "signature": scores.bleu_signature,
        "runs": runs,
    }


if __name__ == "__main__":
    raise SystemExit(main())
