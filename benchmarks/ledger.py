"""Ideas for a better recipe, each tried alone against the recipe as it is.

    python -m benchmarks.ledger RECIPE --train_file ... --validation_file ... --cpu_seconds 100

Every idea changes some flags of the recipe, or does what ledger_methods.py has for it. All get the
same CPU time: the variants race over batches of their own pairs first, and each trains for the
steps that the budget buys at its rate. Three ideas learn pairs that another model has made, or
other ones (--back_translated, --distilled, --pretraining); without the file they are left out.
What counts is greedy BLEU on validation, which is not the split that the targets are measured on.
Numbers go to benchmarks/results/quality/ledger, a file for each idea; a second call tries what is
missing.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from bahdanau_hf.metrics.translation import score_translations
from bahdanau_hf.training.arguments import parse_arguments

from .ledger_methods import (
    ChineseWords,
    Coverage,
    GuidedAttention,
    LastAverage,
    LateLargeBatches,
    Method,
    MovingAverage,
    NormalisedCells,
    OtherPairs,
    Pretraining,
    ResidualEncoder,
    Unigram,
    VariationalDropout,
    WordDropout,
)
from .machine import command_line, describe_machine
from .stopwatch import race
from .study_training import learn, prepare_study, racer, translate, validation_loss

RESULTS = Path(__file__).parent / "results" / "quality" / "ledger"
FILES = ("back_translated", "distilled", "pretraining")


@dataclass(frozen=True)
class Idea:
    """A change of the recipe.

    Attributes:
        title: what it is.
        flags: of scripts/train.py.
        predicted: gain of validation BLEU that was expected before it was tried.
        method: makes what no flag says.
    """

    title: str
    flags: tuple[str, ...]
    predicted: str
    method: Callable[[], Method] = Method


def _dropout(p: float) -> tuple[str, ...]:
    return (f"--embedding_dropout={p:g}", f"--readout_dropout={p:g}")


IDEAS = {
    "vocab-2000": Idea("2,000 instead of 4,000 subwords", ("--vocab_size=2000",), "−1"),
    "vocab-8000": Idea("8,000 subwords", ("--vocab_size=8000",), "+0.3"),
    "word-char": Idea("words and characters", ("--tokenizer_kind=word-char",), "−1"),
    "unigram": Idea("unigram subwords instead of BPE", (), "0", Unigram),
    "chinese-words": Idea("Chinese characters joined by BPE", (), "−1", ChineseWords),
    "untied": Idea(
        "output layer not tied to the embedding", ("--tie_word_embeddings=false",), "−0.5"
    ),
    "linear-readout": Idea(
        "linear instead of maxout readout",
        ("--readout=linear", "--tie_word_embeddings=false"),
        "−1",
    ),
    "wider": Idea("width 384 instead of 256", ("--hidden_size=384",), "−0.5"),
    "xavier": Idea(
        "Xavier instead of orthogonal recurrent weights", ("--initializer=xavier",), "−0.3"
    ),
    "no-dropout": Idea("no dropout instead of 0.1", _dropout(0), "+0.7"),
    "more-dropout": Idea("dropout 0.3", _dropout(0.3), "−2"),
    "variational-dropout": Idea(
        "one dropout mask for all steps", (), "−0.5", partial(VariationalDropout, 0.1)
    ),
    "word-dropout": Idea(
        "a tenth of the words replaced by unknown ones", (), "−0.5", partial(WordDropout, 0.1)
    ),
    "no-smoothing": Idea("no label smoothing", ("--label_smoothing_factor=0",), "−0.5"),
    "layer-norm": Idea("layer normalisation in the cells", (), "+0.5", NormalisedCells),
    "two-layers": Idea("two encoder layers", ("--encoder_layers=2",), "−1"),
    "residual": Idea(
        "two encoder layers, the second residual",
        ("--encoder_layers=2",),
        "−0.5",
        ResidualEncoder,
    ),
    "moving-average": Idea(
        "exponential moving average, 0.99", (), "0", partial(MovingAverage, 0.99)
    ),
    "last-average": Idea(
        "mean of the weights of the last tenth", (), "0", partial(LastAverage, 0.1)
    ),
    "linear-decay": Idea("linear instead of cosine decay", ("--lr_scheduler_type=linear",), "0"),
    "constant-rate": Idea(
        "no decay after the warm-up", ("--lr_scheduler_type=constant_with_warmup",), "−2"
    ),
    "small-batches": Idea("batches of 500 tokens", ("--max_tokens_per_batch=500",), "−0.5"),
    "large-batches": Idea("batches of 2,000 tokens", ("--max_tokens_per_batch=2000",), "−1"),
    "late-large-batches": Idea(
        "batches twice as large in the last third", (), "0", partial(LateLargeBatches, 2 / 3)
    ),
    "coverage": Idea("coverage loss, 0.1", (), "0", partial(Coverage, 0.1)),
    "guided-attention": Idea("guided attention, 0.3", (), "+0.5", partial(GuidedAttention, 0.3)),
    "back-translation": Idea(
        "back-translations of the targets added",
        (),
        "−1",
        partial(OtherPairs, file="back_translated", besides=True),
    ),
    "pretraining": Idea(
        "a third of the time on documentation and captions first",
        (),
        "−1",
        partial(Pretraining, file="pretraining", until=1 / 3, longest=24),
    ),
    "distillation": Idea(
        "the translations of a larger model as targets",
        (),
        "+1",
        partial(OtherPairs, file="distilled", besides=False),
    ),
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
    for name in FILES:
        parser.add_argument(f"--{name}", type=Path, metavar="FILE", help="of pairs, for an idea")
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
        if name in IDEAS and (file := IDEAS[name].method().file) and not getattr(args, file):
            print(f"{name} is left out: it needs --{file}")
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
    idea = IDEAS.get(name, Idea("", (), ""))
    method, bf16 = idea.method(), not args.float32
    files = {file: path for file in FILES if (path := getattr(args, file))}
    rivals = {}
    if base_rate is not None:
        as_it_is = prepare_study(*parse_arguments(list(recipe)), bf16=bf16)
        rivals["as it is"] = racer(as_it_is, "attention")
    runs = []
    with method.patched():
        study = prepare_study(*parse_arguments([*recipe, *idea.flags]), bf16=bf16)
        study = method.study(study, files)
        timings = race({"variant": racer(study, "attention", method), **rivals}, rounds=3)
        rate = timings["variant"].rate
        if base_rate is not None:
            rate = base_rate * timings["variant"].times_as_fast_as(timings["as it is"])
        steps = max(1, round(args.cpu_seconds * rate))
        sources, references = study.pairs("validation")
        for seed in args.seeds:
            model = study.make("attention", seed)
            done = learn(study, model, steps, seed, args.warmup, method)
            lines = translate(study, model, sources, num_beams=1)
            scores = score_translations(lines, references, target_lang=study.data_args.target_lang)
            loss = round(validation_loss(study, model, most=len(sources)), 4)
            runs.append({"seed": seed, "bleu": round(scores.bleu, 2), "loss": loss, **done})
    machine = describe_machine()
    machine["command"] = command_line("benchmarks.ledger")
    return {
        "idea": name,
        "flags": list(idea.flags),
        "machine": machine,
        "cpu_seconds": args.cpu_seconds,
        "steps_a_second": round(rate, 3),
        "steps": steps,
        "signature": scores.bleu_signature,
        "runs": runs,
    }


if __name__ == "__main__":
    raise SystemExit(main())
