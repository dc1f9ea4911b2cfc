"""One model for several kinds of text, and what adapting it to one of them gains and forgets.

    python -m experiments.adapt run --data FOLDER [--only NAME ...] [--seeds 42 43] [flags]
    python -m experiments.adapt render

FOLDER holds a folder for each kind of text, named in `DOMAINS`, with train.tsv, validation.tsv and
test.tsv (or .tsv.gz). `run` trains a model on each kind alone, one on all of them, and goes on from
models with one kind, with and without a part of what the model was trained on mixed in. Each is
scored on all test splits, with 5 beams; the numbers are left in experiments/results/adapt. What is
trained already is not trained again, and `--only` takes some of the models of `MODELS`. Flags that
are not known here, such as --max_train_seconds, go to every training. `render` puts the table into
docs/adapt.md and its Chinese page.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.machine import ROOT, describe_machine

from .published import spread
from .quality import score, split_file, train
from .study_report import update_marks

RESULTS = Path(__file__).parent / "results" / "adapt"
DOCS = ROOT / "docs"
DOMAINS = {
    "tatoeba": "tatoeba-cmn-eng",
    "docs": "docs-en-zh",
    "captions": "captions-health-en-zh",
}
MEASURES = {"bleu": "BLEU", "chrf": "chrF"}
BEAMS, SCRIPT = 5, "simplified"
ADAPT = ("adapt", "--max_train_samples=5000")


@dataclass(frozen=True)
class Model:
    """A training.

    Attributes:
        domains: whose pairs it is trained on.
        flags: the recipe, and what this training has otherwise.
        start: the model that it goes on from.
        mixed: whether pairs of the start's other domains are mixed in.
    """

    domains: tuple[str, ...]
    flags: tuple[str, ...] = ("base",)
    start: str | None = None
    mixed: bool = False


def _adapted(start: str, domain: str) -> dict[str, Model]:
    """A model that goes on with one domain, and one that has others mixed in."""
    return {
        f"{start}-to-{domain}{'-mixed' * mixed}": Model((domain,), ADAPT, start, mixed)
        for mixed in (False, True)
    }


MODELS = {
    # Fewer epochs where there is more text, so that no training takes two CPU hours.
    "tatoeba": Model(("tatoeba",), ("base", "--num_train_epochs=10")),
    "docs": Model(("docs",), ("base", "--num_train_epochs=3")),
    "captions": Model(("captions",), ("base", "--num_train_epochs=5")),
    # In training only the first pairs of validation are translated, which are of one kind.
    "joint": Model(
        tuple(DOMAINS), ("base", "--num_train_epochs=3", "--metric_for_best_model=loss")
    ),
    **{name: model for domain in DOMAINS for name, model in _adapted("joint", domain).items()},
    # To a kind of text that the model has never seen.
    **_adapted("tatoeba", "captions"),
}
# Of each page: the table's heads, the note's words, and what is said where nothing is measured.
PAGES = {
    "adapt.md": (
        ("model", "pairs", "minutes"),
        "seed {seeds}; {parameters:.1f} M parameters; `{signature}`; {date}, commit {commit}, "
        "{device}.",
        "Not measured.",
    ),
    "adapt.zh.md": (
        ("模型", "句对", "分钟"),
        "种子 {seeds}；{parameters:.1f} M 参数；`{signature}`；{date}，提交 {commit}，{device}。",
        "尚未测量。",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.adapt",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("action", choices=["run", "render"])
    parser.add_argument("--data", type=Path, help="folder of the domains' folders")
    parser.add_argument("--only", nargs="+", choices=MODELS, default=list(MODELS), metavar="NAME")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output_dir", type=Path, default=ROOT / "runs" / "adapt")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args, flags = parser.parse_known_args(arguments)
    if args.action == "render":
        results = load_results(args.results)
        for page in PAGES:
            update_marks(DOCS / page, {"adapt": page_text(results, page)})
        return 0
    if args.data is None:
        parser.error("run needs --data")
    args.results.mkdir(parents=True, exist_ok=True)
    for seed in args.seeds:
        for name in args.only:
            result = run(name, seed, args.data, args.output_dir.resolve(), args.threads, flags)
            path = args.results / f"{name}-{seed}.json"
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            shown = {domain: found["bleu"] for domain, found in result["scores"].items()}
            print(name, seed, json.dumps(shown), flush=True)
    return 0


def run(
    name: str, seed: int, data: Path, output_dir: Path, threads: int, flags: Sequence[str]
) -> dict[str, Any]:
    """Train a model, unless it is there, and score it on the test split of every domain.

    Raises:
        SystemExit: the model that it starts from is not there.
    """
    model, folder, machine = MODELS[name], output_dir / f"{name}-{seed}", describe_machine()
    words = ["--only", name, "--seeds", str(seed), *flags]
    machine["command"] = f"python -m experiments.adapt run --data FOLDER {' '.join(words)}"
    machine["threads_used"] = threads

    def files(split: str, domains: Sequence[str]) -> str:
        return ",".join(str(split_file(data / DOMAINS[domain], split)) for domain in domains)

    command = [sys.executable, "-m", "bahdanau_hf", "train", *model.flags]
    command += [
        f"--{split}_file={files(split, model.domains)}" for split in ("train", "validation")
    ]
    command += [f"--chinese_script={SCRIPT}", f"--seed={seed}", f"--output_dir={folder}", *flags]
    if model.start is not None:
        start = output_dir / f"{model.start}-{seed}"
        if not (start / "model.safetensors").exists():
            raise SystemExit(f"error: {name} goes on from {model.start}: run that first")
        command.append(f"--model_name_or_path={start}")
        if model.mixed:
            others = [d for d in MODELS[model.start].domains if d not in model.domains]
            command.append(f"--mix_file={files('train', others)}")
    cost = train(command, folder, threads)
    settings, finished = (
        json.loads((folder / f"{file}.json").read_text(encoding="utf-8"))
        for file in ("settings", "eval_results")
    )
    on_gpu = torch.cuda.is_available()
    return {
        "name": name,
        "seed": seed,
        "machine": machine,
        "device": torch.cuda.get_device_name() if on_gpu else machine["processor"],
        "seconds": round(cost["wall_seconds" if on_gpu else "cpu_seconds"]),
        "parameters": settings["num_parameters"],
        "pairs": settings["num_pairs"]["train"],
        "epochs": finished["epochs"],
        "weights": finished["weights"],
        "scores": {
            domain: score([folder], Path(files("test", [domain])), SCRIPT, BEAMS, threads)
            for domain in DOMAINS
        },
    }


def load_results(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What `run` has left, by name, in the order of `MODELS`; of each the seeds."""
    found = {
        name: [
            json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(folder.glob(f"{name}-[0-9]*.json"))
        ]
        for name in MODELS
    }
    return {name: results for name, results in found.items() if results}


def page_text(results: dict[str, list[dict[str, Any]]], page: str) -> str:
    """A table of each measure and a note on where the numbers are from."""
    heads, note, nothing = PAGES[page]
    if not results:
        return nothing
    every = [result for of_seeds in results.values() for result in of_seeds]
    last = max(every, key=lambda result: result["machine"]["date"])
    said = note.format(
        seeds=", ".join(map(str, sorted({result["seed"] for result in every}))),
        parameters=last["parameters"] / 1e6,
        device=" / ".join(dict.fromkeys(result["device"] for result in every)),
        signature=next(iter(last["scores"].values()))["bleu_signature"],
        date=last["machine"]["date"],
        commit=last["machine"]["commit"],
    )
    tables = [table(results, measure, heads) for measure in MEASURES]
    return "\n\n".join([*tables, f"`python -m experiments.adapt run --data FOLDER`: {said}"])


def table(results: dict[str, list[dict[str, Any]]], measure: str, heads: Sequence[str]) -> str:
    """Scores on each test split; of an adapted model also the change against its start."""
    tests = [f"{MEASURES[measure]} `{domain}`" for domain in DOMAINS]
    lines = [f"| {' | '.join([*heads, *tests])} |", "| --- |" + " ---: |" * (2 + len(DOMAINS))]
    for name, of_seeds in results.items():
        start = results.get(MODELS[name].start or "")
        minutes = mean(result["seconds"] for result in of_seeds) / 60
        cells = [f"`{name}`", f"{of_seeds[0]['pairs']:,}", f"{minutes:.1f}"]
        for domain in DOMAINS:
            values = [result["scores"][domain][measure] for result in of_seeds]
            cells.append(spread(values, 1))
            if start is not None:
                before = mean(result["scores"][domain][measure] for result in start)
                cells[-1] += f" ({mean(values) - before:+.1f})"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
