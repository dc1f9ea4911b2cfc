"""Hold the package against numbers that others have published, on their test sets.

    python -m experiments.published run pronunciation --data FOLDER [--seeds 42 43 44 45 46]
    python -m experiments.published run multi30k --data FOLDER --seeds 42 43 44
    python -m experiments.published run multi30k-raw --data FOLDER --seeds 42
    python -m experiments.published run multi30k-marian --data FOLDER --seeds 42
    python -m experiments.published run multi30k-to-english --data FOLDER --seeds 42
    python -m experiments.published render

`run` trains a model for every language and seed with one recipe, counting the CPU time of each,
scores it on the published test sets, alone and all seeds together, and leaves the numbers in
experiments/results/published. What is there already is not trained again. `render` puts the tables
into experiments/published.md.

FOLDER holds the task's files: for `pronunciation` the SIGMORPHON 2020 task 1 as LANG.SPLIT.tsv.gz
with columns graphemes and phones; for `multi30k` its authors' text as SPLIT.tok.tsv.gz, lower-cased
and tokenised, and SPLIT.raw.tsv.gz, as written, with columns en, de and fr. `multi30k-marian`
trains MarianMT of as many parameters for the CPU time that our training takes on the same machine.
`multi30k-to-english` is from German to English, as tutorials have it.
"""

from __future__ import annotations

import argparse
import gzip
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch
from sacrebleu import corpus_bleu

from bahdanau_hf.training.arguments import parse_arguments
from benchmarks.machine import ROOT, describe_machine

from .quality import environment, train
from .study_report import update_marks
from .study_systems import count
from .study_training import Setting, learn, prepare_study, race_training, translate

RESULTS = Path(__file__).parent / "results" / "published"
PAGE = Path(__file__).parent / "published.md"
LEARNT_FROM = ("train", "validation")
# Of MarianMT on the captions: the study's tuning, and the dropout of a model for few sentences.
MARIAN = Setting(learning_rate=0.002, warmup=0.2, dropout=0.3, label_smoothing=0.1)


@dataclass(frozen=True)
class Task:
    """A published task.

    Attributes:
        recipe: a name or a path from the repository's root.
        languages: with the published numbers of each, by test set.
        files: name of a split's file, with places for language and split.
        tests: names of the test splits.
        measure: of the scores, the one that was published.
        beams: of the search.
        tokenised: whether the words of its text are those that BLEU counts.
        source: the language of its sources, if there is a choice.
    """

    recipe: str
    languages: dict[str, dict[str, tuple[float, ...]]]
    files: str
    tests: tuple[str, ...]
    measure: str
    beams: int
    tokenised: bool = True
    source: str = "en"


# Word error rates of the task's LSTM encoder-decoder (Gorman et al. 2020), as remembered: their
# mean is the published one. And of the best of all submissions by macro average.
_LSTM = {
    **{"ady": 28.00, "arm": 14.67, "bul": 31.11, "dut": 16.44, "fre": 6.22, "geo": 26.44},
    **{"gre": 18.89, "hin": 6.67, "hun": 5.33, "ice": 10.00, "jpn": 7.56, "kor": 46.89},
    **{"lit": 19.11, "rum": 10.67, "vie": 4.67},
}
LSTM_MACRO, BEST_MACRO = 16.84, 13.81
# BLEU of the conditional GRU of LIUM-CVC at WMT17 (arXiv 1707.04481): mean of seeds, ensemble.
_LIUM = {
    "de": {
        "test_2016_flickr": (38.1, 40.7),
        "test_2017_flickr": (30.8, 33.2),
        "test_2017_mscoco": (26.4, 28.7),
    },
    "fr": {
        "test_2016_flickr": (52.5, 54.3),
        "test_2017_flickr": (50.4, 53.0),
        "test_2017_mscoco": (41.2, 43.3),
    },
}
# BLEU of a GRU with attention on test 2016, lower-cased and tokenised, as remembered from the best
# known course of sequence-to-sequence models in PyTorch.
_TUTORIAL = {"en": {"test_2016_flickr": (29.0,)}}
TASKS = {
    "pronunciation": Task(
        "pronunciation",
        {language: {"test": (rate,)} for language, rate in _LSTM.items()},
        "{language}.{split}.tsv.gz",
        ("test",),
        "error_rate",
        5,
    ),
    **{
        name: Task(
            "experiments/multi30k.yaml", _LIUM, files, tuple(_LIUM["de"]), "bleu", 12, is_tok
        )
        for name, files, is_tok in (
            ("multi30k", "{split}.tok.tsv.gz", True),
            ("multi30k-raw", "{split}.raw.tsv.gz", False),
            ("multi30k-marian", "{split}.tok.tsv.gz", True),
        )
    },
    "multi30k-to-english": Task(
        "experiments/multi30k.yaml",
        _TUTORIAL,
        "{split}.tok.tsv.gz",
        tuple(_LIUM["de"]),
        "bleu",
        12,
        source="de",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.published",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["run", "render"])
    parser.add_argument("task", nargs="?", choices=TASKS)
    parser.add_argument("--data", type=Path, help="folder of the task's files")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46])
    parser.add_argument("--languages", nargs="+", help="default: all of the task")
    parser.add_argument("--output_dir", type=Path, default=ROOT / "runs" / "published")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    if args.action == "render":
        results = {name: load(args.results, name) for name in TASKS}
        sections = {"pronunciation": pronunciation_table(results["pronunciation"])}
        sections["multi30k"] = multi30k_table(results)
        sections["multi30k-to-english"] = to_english_table(results["multi30k-to-english"])
        update_marks(PAGE, sections)
        return 0
    if args.task is None or args.data is None:
        parser.error("run needs a task and --data")
    args.results.mkdir(parents=True, exist_ok=True)
    for language in args.languages or TASKS[args.task].languages:
        given = (language, args.data.resolve(), args.seeds)
        if args.task == "multi30k-marian":
            result = run_marian(*given)
        else:
            result = run(args.task, *given, args.output_dir)
        path = args.results / f"{args.task}-{language}.json"
        path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        print(language, json.dumps(result["scores"]), flush=True)
    return 0


def run(
    name: str, language: str, data: Path, seeds: Sequence[int], output_dir: Path
) -> dict[str, Any]:
    """Train and score one language: `scores` of each test set, by seed and of all together."""
    task = TASKS[name]

    def split_file(split: str) -> str:
        return str(data / task.files.format(language=language, split=split))

    languages = [f"--source_lang={task.source}", f"--target_lang={language}"]
    if name == "pronunciation":
        languages = []
    folders = [output_dir / name / f"{language}-{seed}" for seed in seeds]
    command = [sys.executable, "-m", "bahdanau_hf", "train", task.recipe, *languages]
    command += [f"--train_file={split_file('train')}"]
    command += [f"--validation_file={split_file('validation')}"]
    costs = [
        train([*command, f"--seed={seed}", f"--output_dir={folder}"], folder, 1)
        for seed, folder in zip(seeds, folders, strict=True)
    ]
    settings = json.loads((folders[0] / "settings.json").read_text(encoding="utf-8"))
    together = [folders] if len(folders) > 1 else []
    models = [*([folder] for folder in folders), *together]
    scores = {
        split: [score(models_, split_file(split), language, task) for models_ in models]
        for split in task.tests
    }
    return {
        **_facts(name, language, seeds),
        "parameters": settings["num_parameters"],
        "cpu_seconds": [round(cost["cpu_seconds"]) for cost in costs],
        "scores": {
            split: {"seeds": values[: len(seeds)], "ensemble": values[len(seeds) :]}
            for split, values in scores.items()
        },
    }


def _facts(name: str, language: str, seeds: Sequence[int]) -> dict[str, Any]:
    """What every result begins with."""
    machine = describe_machine()
    machine["command"] = f"python -m experiments.published run {name} --data FOLDER"
    machine["threads_used"] = 1
    return {"task": name, "language": language, "machine": machine, "seeds": list(seeds)}


def score(models: Sequence[Path], test_file: str, language: str, task: Task) -> dict[str, float]:
    """The published measure of one model, or of several together."""
    model = [f"--model={models[0]}", f"--num_beams={task.beams}"]
    if len(models) > 1:
        model += ["--ensemble", *map(str, models[1:])]
    if task.measure == "error_rate":
        found = json.loads(_command("score", *model, f"--test_file={test_file}"))
        return {name: found[name] for name in ("error_rate", "token_error_rate")}
    sources, references = read_sides(Path(test_file), task.source, language)
    translations = _command("translate", *model, given="".join(f"{line}\n" for line in sources))
    tokenize = "none" if task.tokenised else "13a"
    return {"bleu": bleu(translations.rstrip("\n").split("\n"), references, tokenize)}


def _command(*arguments: str, given: str = "") -> str:
    """What a command of the package prints."""
    return subprocess.run(
        [sys.executable, "-m", "bahdanau_hf", *arguments],
        cwd=ROOT,
        check=True,
        env=environment(1),
        input=given,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ).stdout


def read_sides(path: Path, source: str, target: str) -> tuple[list[str], list[str]]:
    """The sentences of a file of Multi30k in one language, and those in another."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines]
    places = [rows[0].index(side) for side in (source, target)]
    sources, references = ([row[place].strip() for row in rows[1:]] for place in places)
    return sources, references


def bleu(translations: Sequence[str], references: Sequence[str], tokenize: str) -> float:
    """BLEU by sacrebleu; `none` counts words as they are divided already."""
    return corpus_bleu(list(translations), [list(references)], tokenize=tokenize, force=True).score


def run_marian(language: str, data: Path, seeds: Sequence[int]) -> dict[str, Any]:
    """Train MarianMT of as many parameters on the same batches for as long, and score it.

    It takes the steps for which there is time while ours takes those of the recipe. What both take
    in a second is measured before, in turns, as a result of another machine would not tell.
    """
    task, costs = TASKS["multi30k-marian"], []
    scores: list[dict[str, dict[str, float]]] = []
    settings = parse_arguments(
        [
            str(ROOT / task.recipe),
            f"--target_lang={language}",
            *(f"--{split}_file={data / task.files.format(split=split)}" for split in LEARNT_FROM),
        ]
    )
    torch.set_num_threads(1)
    study = prepare_study(*settings, bf16=True).with_setting(MARIAN)
    rates = race_training(study, ["attention", "MarianMT"])
    epochs = settings.train.num_train_epochs * rates["MarianMT"] / rates["attention"]
    for seed in seeds:
        model = study.make("MarianMT", seed)
        search = {"num_beams": task.beams, "length_penalty": settings.train.length_penalty}
        model.generation_config.update(**search)
        steps = round(epochs * len(study.sampler(seed)))
        costs.append(learn(study, model, steps, seed, MARIAN.warmup)["cpu_seconds"])
        scores.append({})
        for split in task.tests:
            path = data / task.files.format(split=split)
            sources, references = read_sides(path, task.source, language)
            translations = translate(study, model, sources, task.beams)
            scores[-1][split] = {"bleu": bleu(translations, references, "none")}
    return {
        **_facts("multi30k-marian", language, seeds),
        "parameters": count(model),
        "cpu_seconds": [round(cost) for cost in costs],
        "scores": {
            split: {"seeds": [found[split] for found in scores], "ensemble": []}
            for split in task.tests
        },
    }


def load(folder: Path, name: str) -> list[dict[str, Any]]:
    """What `run` has left of a task, in the task's order."""
    paths = (folder / f"{name}-{language}.json" for language in TASKS[name].languages)
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths if path.exists()]


def pronunciation_table(results: Sequence[dict[str, Any]]) -> str:
    """Word error rates beside the task's own LSTM model."""
    rows: list[tuple[float, float | None, float]] = []
    lines = [
        "| language | the task's LSTM | one model, mean | all seeds together | CPU minutes |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        rates = [found["error_rate"] for found in result["scores"]["test"]["seeds"]]
        together = [found["error_rate"] for found in result["scores"]["test"]["ensemble"]]
        minutes = mean(result["cpu_seconds"]) / 60
        rows.append((mean(rates), together[0] if together else None, minutes))
        cells = [f"{_LSTM[result['language']]:.2f}", spread(rates)]
        cells += [f"{rate:.2f}" for rate in together] or ["–"]
        lines.append(f"| {result['language']} | {' | '.join(cells)} | {minutes:.1f} |")
    return "\n".join([*lines, *_macro(rows), "", *_note(results)])


def _macro(rows: Sequence[tuple[float, float | None, float]]) -> list[str]:
    """The mean over languages, if all are there; of all seeds together, if all have it."""
    if len(rows) < len(_LSTM):
        return []
    together = [rate for _, rate, _ in rows if rate is not None]
    cells = [LSTM_MACRO, mean(row[0] for row in rows)]
    cells += [mean(together)] if len(together) == len(rows) else []
    shown = [f"**{cell:.2f}**" for cell in cells] + ["–"] * (3 - len(cells))
    minutes = f"{mean(row[2] for row in rows):.1f}"
    return [f"| {' | '.join(['**macro average**', *shown, minutes])} |"]


def multi30k_table(results: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """BLEU beside LIUM-CVC's; `results` by task."""
    lines = [
        "| direction | test set | published: mean | ours | published: ensemble | ours | MarianMT "
        "| ours, text as written |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results["multi30k"]:
        language = result["language"]
        for split, found in result["scores"].items():
            published = TASKS["multi30k"].languages[language][split]
            cells = [f"en→{language}", split.replace("_", " "), f"{published[0]}"]
            cells += [_mean(found["seeds"]), str(published[1]), _mean(found["ensemble"])]
            for name in ("multi30k-marian", "multi30k-raw"):
                of_same = [r for r in results[name] if r["language"] == language]
                cells.append(_mean(of_same[0]["scores"][split]["seeds"] if of_same else []))
            lines.append(f"| {' | '.join(cells)} |")
    notes = [
        line
        for name, found in results.items()
        if name == "multi30k" or (found and name in ("multi30k-marian", "multi30k-raw"))
        for line in _note(found)
    ]
    return "\n\n".join(["\n".join(lines), *notes])


def to_english_table(results: Sequence[dict[str, Any]]) -> str:
    """BLEU from German beside the tutorials'."""
    lines = ["| direction | test set | tutorial | ours |", "| --- | --- | ---: | ---: |"]
    for result in results:
        for split, found in result["scores"].items():
            published = TASKS["multi30k-to-english"].languages["en"].get(split)
            cells = [split.replace("_", " "), f"{published[0]:.0f}" if published else "–"]
            lines.append(f"| de→en | {' | '.join([*cells, _mean(found['seeds'])])} |")
    return "\n".join([*(lines if results else []), "", *_note(results)]).lstrip()


def _mean(found: Sequence[dict[str, float]]) -> str:
    return spread([entry["bleu"] for entry in found], 1) if found else "–"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean, and standard deviation over the seeds."""
    if len(values) < 2:
        return f"{values[0]:.{digits}f}"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


def _note(results: Sequence[dict[str, Any]]) -> list[str]:
    """Where the numbers come from."""
    if not results:
        return ["Not measured."]
    machine, seeds = results[0]["machine"], max((r["seeds"] for r in results), key=len)
    minutes = [seconds / 60 for result in results for seconds in result["cpu_seconds"]]
    shown = [f"{minute:.1f}" for minute in (min(minutes), max(minutes))]
    return [
        f"`{machine['command']}`: seed {', '.join(map(str, seeds))}, "
        f"{results[0]['parameters'] / 1e6:.1f} M parameters, {' to '.join(dict.fromkeys(shown))} "
        f"CPU minutes a training; {machine['date']}, commit "
        f"{machine['commit']}, {machine['processor']}, one thread."
    ]


if __name__ == "__main__":
    raise SystemExit(main())
