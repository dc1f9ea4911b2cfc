"""Does attention help, and more so in long sentences? And against a transformer?

    python -m experiments.attention_study tune NAME RECIPE --train_file ... --validation_file ...
    python -m experiments.attention_study measure NAME RECIPE --train_file ... --test_file ...
    python -m experiments.attention_study render

Three systems of as many parameters learn the same batches: ours with attention, ours without (the
plain seq2seq, made wider), and MarianMT of transformers. Each gets the same CPU time. As the time
of a run depends on what else the machine does, the systems first race over the same batches, taking
turns, and each then gets the number of steps that the budget buys at the rate it had there.

`tune` tries learning rates, warm-ups, dropout and label smoothing for each system and keeps what
translates validation best; a second call with other values adds to the first.
`measure` trains with each seed and scores the test split, greedily and with beams, in all and by
length of the source. Both leave NAME-tune.json and NAME.json in experiments/results/study, numbers
alone; translations stay in --work_dir, and a second call goes on where the first one stopped.
`render` draws the figure and puts the tables into experiments/study.md. What these do not know of
flags goes to the recipe, as with scripts/train.py.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from bahdanau_hf.metrics.analysis import compare_systems, scores_by_length
from bahdanau_hf.metrics.translation import score_translations
from bahdanau_hf.training.arguments import parse_arguments
from benchmarks.machine import command_line, describe_machine

from .seeds import compare_means
from .study_report import render
from .study_systems import SYSTEMS, count
from .study_training import (
    Setting,
    Study,
    learn,
    prepare_study,
    race_training,
    translate,
    validation_loss,
)

RESULTS = Path(__file__).parent / "results" / "study"
MOST_TUNING = 1000  # sentences of validation that a setting is judged by
# Where a group of sources begins, in words: like figure 2 of the paper, as far as sentences go.
EDGES = (1, 4, 6, 8, 10, 13, 16, 21, 31, 41, 51, 61)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked for."""
    args, recipe = _parser().parse_known_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("bahdanau_hf").setLevel(logging.ERROR)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    if args.action == "render":
        render(args.results)
        return 0
    model_args, data_args, train_args = parse_arguments(recipe)
    study = prepare_study(model_args, data_args, train_args, bf16=not args.float32)
    args.results.mkdir(parents=True, exist_ok=True)
    (tune if args.action == "tune" else measure)(study, args)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.attention_study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("action", choices=["tune", "measure", "render"])
    parser.add_argument("name", nargs="?", default="study", help="of the results")
    parser.add_argument("--cpu_seconds", type=float, default=200.0, help="of training, each system")
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--learning_rates", nargs="+", type=float, default=[0.001, 0.002, 0.004])
    parser.add_argument("--warmups", nargs="+", type=float, default=[0.1, 0.3])
    parser.add_argument("--dropouts", nargs="+", type=float, default=[0.1])
    parser.add_argument("--label_smoothings", nargs="+", type=float, default=[0.1])
    parser.add_argument("--tuned", help="take the settings of these results' tuning; default NAME")
    parser.add_argument("--float32", action="store_true", help="no autocast to bfloat16")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--work_dir", type=Path, default=Path("runs/study"))
    return parser


def steps_for(study: Study, args: argparse.Namespace) -> tuple[dict[str, float], dict[str, int]]:
    """Rates of the race, and the steps that the budget buys each system.

    Of an earlier call, if there is one: all runs of a study are to have the same.
    """
    folder = args.work_dir / args.name
    same_study(study, folder)
    path = folder / "rates.json"
    rates = json.loads(path.read_text()) if path.exists() else {}
    if not set(args.systems) <= set(rates):
        rates = race_training(study, args.systems)
        path.write_text(json.dumps(rates))
    steps = {name: max(1, round(args.cpu_seconds * rates[name])) for name in args.systems}
    print(json.dumps({"rates": rates, "steps": steps}), flush=True)
    return rates, steps


def same_study(study: Study, folder: Path) -> None:
    """See that what a folder holds was made with the same recipe and files."""
    groups = (study.model_args, study.data_args, study.train_args)
    settings = {"bf16": study.bf16}
    for group in groups:
        settings |= dataclasses.asdict(group)
    del settings["output_dir"]
    path = folder / "settings.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    elif json.loads(path.read_text()) != settings:
        sys.exit(f"error: {folder} holds a study of another recipe: give it another name")


def tune(study: Study, args: argparse.Namespace) -> None:
    """Train each system once with each setting that was not tried yet, and look at validation."""
    rates, steps = steps_for(study, args)
    path = args.results / f"{args.name}-tune.json"
    tried = json.loads(path.read_text(encoding="utf-8"))["tried"] if path.exists() else []
    values = (args.learning_rates, args.warmups, args.dropouts, args.label_smoothings)
    sources, references = study.pairs("validation")
    for system, *numbers in itertools.product(args.systems, *values):
        setting = Setting(*numbers)
        line = {"system": system, **dataclasses.asdict(setting)}
        if any(line.items() <= earlier.items() for earlier in tried):
            continue
        own = study.with_setting(setting)
        model = own.make(system, seed=0)
        done = learn(own, model, steps[system], 0, setting.warmup)
        lines = translate(own, model, sources[:MOST_TUNING], num_beams=1)
        langs = {"target_lang": study.data_args.target_lang}
        scores = score_translations(lines, references[:MOST_TUNING], **langs)
        line["validation_bleu"] = round(scores.bleu, 2)
        line["validation_loss"] = round(validation_loss(own, model, most=MOST_TUNING), 4)
        tried.append({**line, "steps": steps[system], **done})
        print(json.dumps(tried[-1]), flush=True)
        write(args, f"{args.name}-tune", {**about(study, args), "rates": rates, "tried": tried})


def best_settings(args: argparse.Namespace) -> dict[str, Setting]:
    """Of each system, what got the highest greedy BLEU on validation."""
    path = args.results / f"{args.tuned or args.name}-tune.json"
    if not path.exists():
        sys.exit(f"error: {path} is missing: run `tune` first, or name another one with --tuned")
    tried = json.loads(path.read_text(encoding="utf-8"))["tried"]
    best: dict[str, Setting] = {}
    for line in sorted(tried, key=lambda line: -line["validation_bleu"]):
        numbers = {field.name: line[field.name] for field in dataclasses.fields(Setting)}
        best.setdefault(line["system"], Setting(**numbers))
    missing = set(args.systems) - set(best)
    if missing:
        sys.exit(f"error: {path} has no setting of {', '.join(sorted(missing))}")
    return best


def measure(study: Study, args: argparse.Namespace) -> None:
    """Train and score each system with each seed; seeds take turns, so that all have as many."""
    settings = best_settings(args)
    rates, steps = steps_for(study, args)
    sources, references = study.pairs("test")
    runs: list[dict[str, Any]] = []
    for seed in args.seeds:
        for system in args.systems:
            folder = args.work_dir / args.name / f"{system.replace(' ', '-')}-{seed}"
            if not (folder / "run.json").exists():
                one_run(study, args, folder, system, seed, steps[system], settings[system])
            run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
            planned = {"steps": steps[system], **dataclasses.asdict(settings[system])}
            if not planned.items() <= run.items():
                sys.exit(f"error: {folder} is a run of another budget or tuning: remove it")
            runs.append(run)
        translations = {
            (run["system"], run["seed"], beams): read_lines(args, run, beams)
            for run in runs
            for beams in args.beams
        }
        result = {
            **about(study, args),
            "rates": rates,
            "signature": runs[0]["signature"],
            "num_test": len(sources),
            "length_counts": group_sizes(study, sources, references),
            "runs": runs,
            "comparisons": comparisons(translations, references, args, study.data_args.target_lang),
        }
        write(args, args.name, result)


def one_run(
    study: Study,
    args: argparse.Namespace,
    folder: Path,
    system: str,
    seed: int,
    steps: int,
    setting: Setting,
) -> None:
    """Train a system, translate the test split, leave scores and translations in a folder."""
    study = study.with_setting(setting)
    model = study.make(system, seed)
    run: dict[str, Any] = {
        "system": system,
        "seed": seed,
        "parameters": count(model),
        "steps": steps,
        **dataclasses.asdict(setting),
        **learn(study, model, steps, seed, setting.warmup),
    }
    sources, references = study.pairs("test")
    langs = {"target_lang": study.data_args.target_lang}
    folder.mkdir(parents=True, exist_ok=True)
    for beams in args.beams:
        lines = translate(study, model, sources, beams)
        (folder / f"beams-{beams}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        scores = score_translations(lines, references, **langs)
        groups = scores_by_length(
            sources,
            lines,
            references,
            source_lang=study.data_args.source_lang,
            edges=EDGES,
            **langs,
        )
        run[f"beams_{beams}"] = {
            "bleu": round(scores.bleu, 2),
            "chrf": round(scores.chrf, 2),
            "by_length": {str(g.shortest): round(g.bleu, 2) for g in groups},
        }
        run["signature"] = scores.bleu_signature
    (folder / "run.json").write_text(json.dumps(run), encoding="utf-8")
    print(json.dumps(run), flush=True)


def read_lines(args: argparse.Namespace, run: dict[str, Any], beams: int) -> list[str]:
    """The translations of a run."""
    folder = args.work_dir / args.name / f"{run['system'].replace(' ', '-')}-{run['seed']}"
    return (folder / f"beams-{beams}.txt").read_text(encoding="utf-8").split("\n")[:-1]


def group_sizes(
    study: Study, sources: Sequence[str], references: Sequence[str]
) -> dict[str, dict[str, int | None]]:
    """Where each group of lengths ends and how many test sentences it has."""
    groups = scores_by_length(
        sources, references, references, source_lang=study.data_args.source_lang, edges=EDGES
    )
    return {str(g.shortest): {"longest": g.longest, "sentences": g.num_sentences} for g in groups}


def comparisons(
    translations: dict[tuple[str, int, int], list[str]],
    references: Sequence[str],
    args: argparse.Namespace,
    target_lang: str,
) -> list[dict[str, Any]]:
    """The system with attention against each other: mean of the seeds both have, and each seed."""
    found = []
    first, *others = args.systems
    for other, beams in itertools.product(others, args.beams):
        seeds = [s for s in args.seeds if {(first, s, beams), (other, s, beams)} <= {*translations}]
        if not seeds:
            continue
        ours = [translations[first, seed, beams] for seed in seeds]
        theirs = [translations[other, seed, beams] for seed in seeds]
        each = [
            compare_systems(a, b, references, target_lang=target_lang)["bleu"].p_value
            for a, b in zip(ours, theirs, strict=True)
        ]
        mean = compare_means(ours, theirs, references, target_lang=target_lang)
        found.append(
            {
                "system": first,
                "baseline": other,
                "beams": beams,
                "seeds": seeds,
                "p_of_each_seed": [round(p, 4) for p in each],
                **{k: round(v, 4) for k, v in dataclasses.asdict(mean).items()},
            }
        )
    return found


def about(study: Study, args: argparse.Namespace) -> dict[str, Any]:
    """What a reader needs to know to run it again."""
    machine = describe_machine()
    machine["command"] = command_line("experiments.attention_study")
    return {
        "machine": machine,
        "name": args.name,
        "cpu_seconds": args.cpu_seconds,
        "bf16": study.bf16,
        "num_train": len(study.encoded),
        "batches_in_a_pass": len(study.sampler(0)),
        "vocab_size": len(study.tokenizer),
        "chinese_script": study.data_args.chinese_script,
    }


def write(args: argparse.Namespace, name: str, result: dict[str, Any]) -> None:
    """Keep numbers in the folder of results."""
    path = args.results / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
