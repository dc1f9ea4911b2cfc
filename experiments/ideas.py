"""Methods that may raise quality: each alone, in whole trainings, beside the recipe as it is.

    python -m experiments.ideas run NAME ... [--recipe tiny] [--seeds 42 43] [flags]
    python -m experiments.ideas run NAME ... --recipe base --data FOLDER [flags]
    python -m experiments.ideas render

Names are those of `IDEAS`; `plain` is the recipe with the paper's decoder, which some of the others
go on from and all are compared with: run it first. Without --data a run learns the bundled pairs
and is scored on those of validation and test together; FOLDER holds train.tsv, validation.tsv and
test.tsv (or .tsv.gz), whose Chinese is read in simplified characters. Flags that are not known
here, such as --num_train_epochs, go to every training. A training that is there is not done again.
Numbers are left in experiments/results/ideas, translations beside the models. `render` puts the
tables into experiments/ideas.md.

An idea changes what the package's own training calls, inside its process alone (`Idea.patches`).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import mean
from typing import Any
from unittest import mock

import datasets
import torch

from bahdanau_hf import Translator
from bahdanau_hf import train as training
from bahdanau_hf.data.preprocessing import encode_pairs
from bahdanau_hf.data.sources import pair_texts
from bahdanau_hf.metrics.translation import score_translations
from bahdanau_hf.precision import fastest_dtype
from bahdanau_hf.training.arguments import Settings, parse_arguments
from bahdanau_hf.training.pairs import encoding_options, load_pairs
from bahdanau_hf.training.run import Run
from bahdanau_hf.training.setup import prepare_model
from benchmarks.machine import ROOT, describe_machine
from benchmarks.stopwatch import Contender, race

from .idea_methods import (
    LayerNormCell,
    LayerNormGRU,
    LoopCell,
    LoopGRU,
    Shortlist,
    WordQueryDecoder,
    add_agreeing_gradient,
    add_risk_gradient,
    start_with_bpe_dropout,
)
from .published import spread
from .quality import split_file, train
from .seeds import compare_means
from .study_report import update_marks
from .study_training import RACE_BATCHES, Learner, prepare_study

RESULTS = Path(__file__).parent / "results" / "ideas"
PAGE = Path(__file__).parent / "ideas.md"
BEAMS = (1, 5)
TIMED_SENTENCES, TIMED_BATCHES, ROUNDS = 256, (1, 64), 5
_MODEL = "bahdanau_hf.modeling.modeling_bahdanau"
_LOOP = {f"{_MODEL}.BahdanauGRU": LoopGRU, f"{_MODEL}.BahdanauGRUCell": LoopCell}
_NORMALISED = {f"{_MODEL}.BahdanauGRU": LayerNormGRU, f"{_MODEL}.BahdanauGRUCell": LayerNormCell}
_WORD_QUERY = {f"{_MODEL}.BahdanauDecoder": WordQueryDecoder}
_GRADIENT = "bahdanau_hf.training.step._add_gradient"
_PLAIN, _CONDITIONAL = ("--conditional_gru=false",), ("--conditional_gru=true",)
# Once more over the pairs, slowly; a loss that is no cross-entropy has no use for the two last.
_GO_ON = (
    *("--num_train_epochs=1", "--learning_rate=0.0001", "--num_warmup_steps=0"),
    *("--label_smoothing_factor=0", "--guided_attention_weight=0"),
)


@dataclass(frozen=True)
class Idea:
    """A way to train or to translate.

    Attributes:
        title: what it is, for the table.
        patches: what stands in the place of what, in training and in use, by full names.
        flags: of the training, besides the recipe.
        start: whether it goes on from the plain model of the same seed.
        is_timed: whether the time of a training step is taken.
        epochs_of: the idea by whose time a step the number of epochs is divided.
        trains: False: it only translates in another way, with the plain model.
    """

    title: str
    patches: Mapping[str, Any] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    start: bool = False
    is_timed: bool = False
    epochs_of: str | None = None
    trains: bool = True


@contextmanager
def patched(patches: Mapping[str, Any]) -> Iterator[None]:
    """Let each full name mean something else for a while."""
    with ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch(name, value))
        yield


def _of_cells(
    name: str, title: str, patches: Mapping[str, Any], flags: tuple[str, ...] = ()
) -> dict[str, Idea]:
    """At as many epochs, and at the same time if the fused loop lost no more than the plain one."""
    fewer = Idea("the same, with so many epochs less", patches, flags, epochs_of=name)
    return {name: Idea(title, patches, flags, is_timed=True), f"{name}-equal-time": fewer}


def _bpe_dropout(share: float) -> dict[str, Any]:
    start = partial(start_with_bpe_dropout, Run, share=share)
    return {"bahdanau_hf.training.run.Run": start}


IDEAS = {
    "plain": Idea("the paper's decoder"),
    **_of_cells("layer-norm", "layer normalisation in all GRUs", _NORMALISED),
    **_of_cells("conditional", "conditional GRU", {}, _CONDITIONAL),
    "word-query": Idea("the attention looks with the last word too", _WORD_QUERY),
    "bpe-dropout-0.1": Idea("BPE-dropout 0.1 on sources", _bpe_dropout(0.1)),
    "bpe-dropout-0.05": Idea("BPE-dropout 0.05 on sources", _bpe_dropout(0.05)),
    "r-drop": Idea("conditional GRU, R-Drop", {_GRADIENT: add_agreeing_gradient}, _CONDITIONAL),
    "further": Idea("plain, then an epoch more by cross-entropy", flags=_GO_ON, start=True),
    "minimum-risk": Idea(
        "plain, then an epoch of minimum risk", {_GRADIENT: add_risk_gradient}, _GO_ON, start=True
    ),
    "shortlist": Idea("plain, translating with a lexical shortlist", trains=False),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked for."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if arguments[:1] == ["train"]:  # in a process of its own, whose time is counted
        with patched(IDEAS[arguments[1]].patches):
            return training.main(arguments[2:])
    parser = argparse.ArgumentParser(
        prog="python -m experiments.ideas",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("action", choices=["run", "render"])
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(IDEAS))
    parser.add_argument("--recipe", default="tiny")
    parser.add_argument("--data", type=Path, help="folder of the three splits")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43])
    parser.add_argument("--output_dir", type=Path, default=ROOT / "runs" / "ideas")
    parser.add_argument("--results", type=Path, default=RESULTS)
    args, flags = parser.parse_known_args(arguments)
    if args.action == "render":
        update_marks(PAGE, {"ideas": page_text(load_results(args.results))})
        return 0
    if not args.names or not set(args.names) <= set(IDEAS):
        parser.error(f"run needs names of {', '.join(IDEAS)}")
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    args.results.mkdir(parents=True, exist_ok=True)
    for name in args.names:
        for seed in args.seeds:
            result = run(name, seed, args, flags)
            path = args.results / f"{args.recipe}-{name}-{seed}.json"
            path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(name, seed, json.dumps(result["scores"]), flush=True)
    return 0


# --- one idea, one seed --------------------------------------------------------------------------


def run(name: str, seed: int, args: argparse.Namespace, flags: Sequence[str]) -> dict[str, Any]:
    """Train, unless it was done, score, and compare with the plain model.

    Raises:
        SystemExit: a training is missing that this one needs.
    """
    idea, machine = IDEAS[name], describe_machine()
    words = [name, "--recipe", args.recipe, *(["--data", "FOLDER"] if args.data else [])]
    words += ["--seeds", str(seed), *flags]
    machine["command"] = f"python -m experiments.ideas run {' '.join(words)}"
    places = {n: args.output_dir.resolve() / f"{args.recipe}-{n}-{seed}" for n in IDEAS}
    folder, plain = places[name], places["plain"]
    if (idea.start or not idea.trains) and not (plain / "model.safetensors").exists():
        raise SystemExit(f"error: {name} goes on from plain, seed {seed}: run that first")
    begin, rest = [args.recipe, f"--seed={seed}", *_PLAIN], []
    if args.data:
        rest += [f"--{s}_file={split_file(args.data, s)}" for s in ("train", "validation", "test")]
        rest.append("--chinese_script=simplified")
    rest += [*([f"--model_name_or_path={plain}"] if idea.start else []), *flags]
    told, model = [*begin, *idea.flags, *rest], folder if idea.trains else plain
    settings = parse_arguments(told)
    if idea.epochs_of is not None:
        longer = _result_of(idea.epochs_of, args)["steps"]["ratio"]
        epochs = round(settings.train.num_train_epochs / longer, 2)
        told.append(f"--num_train_epochs={epochs}")
    cost = 0.0
    if idea.trains:
        command = [sys.executable, "-m", "experiments.ideas", "train", name]
        cost = train([*command, *told, f"--output_dir={folder}"], folder, 1)["cpu_seconds"]
    if idea.start or not idea.trains:
        cost += json.loads((plain / "cost.json").read_text(encoding="utf-8"))["cpu_seconds"]
    folder.mkdir(parents=True, exist_ok=True)
    made, finished = (
        json.loads((model / file).read_text(encoding="utf-8"))
        for file in ("settings.json", "eval_results.json")
    )
    pairs, _ = load_pairs(settings.data)
    languages = (settings.data.source_lang, settings.data.target_lang)
    held_out = ("test",) if args.data else ("validation", "test")
    sources, references = pair_texts(
        datasets.concatenate_datasets([pairs[split] for split in held_out]), *languages
    )
    with patched(idea.patches):
        translator = Translator.from_pretrained(model, device="cpu")
        more = {} if idea.trains else measure_shortlist(translator, settings, pairs, sources)
        scores = {}
        for beams in BEAMS:
            texts = [t.text for t in translator.translate(sources, num_beams=beams)]
            path = folder / f"translations-{beams}.json"
            path.write_text(json.dumps(texts, ensure_ascii=False), encoding="utf-8")
            found = score_translations(texts, references, target_lang=languages[1])
            kept = ("bleu", "bleu_signature", "chrf", "chrf_signature", "num_sentences")
            scores[str(beams)] = {key: getattr(found, key) for key in kept}
    if idea.is_timed:
        more["steps"] = time_steps(idea, settings, parse_arguments([*begin, *rest]))
    return {
        **{"name": name, "recipe": args.recipe, "seed": seed, "machine": machine},
        "cpu_seconds": round(cost),
        "parameters": made["num_parameters"],
        "pairs": made["num_pairs"]["train"],
        "epochs": made["train"]["num_train_epochs"],
        "weights": finished["weights"],
        "scores": scores,
        "comparison": compare(name, args, references, languages[1]),
        **more,
    }


def _result_of(name: str, args: argparse.Namespace) -> dict[str, Any]:
    found = sorted(args.results.glob(f"{args.recipe}-{name}-[0-9]*.json"))
    if not found:
        raise SystemExit(f"error: the time a step of {name} is not known: run that first")
    return json.loads(found[0].read_text(encoding="utf-8"))


def compare(
    name: str, args: argparse.Namespace, references: Sequence[str], target_lang: str
) -> dict[str, Any]:
    """The mean of all seeds that are there against plain's: by beams, with the seeds."""
    found = {}
    for beams in BEAMS:
        runs: dict[str, tuple[list[str], list[str]]] = {}
        for folder in sorted(args.output_dir.resolve().glob(f"{args.recipe}-{name}-[0-9]*")):
            seed = folder.name.rpartition("-")[2]
            plain = folder.with_name(f"{args.recipe}-plain-{seed}")
            both = [place / f"translations-{beams}.json" for place in (folder, plain)]
            if folder != plain and all(path.exists() for path in both):
                own, base = (json.loads(path.read_text(encoding="utf-8")) for path in both)
                runs[seed] = own, base
        if runs:
            own_runs, base_runs = zip(*runs.values(), strict=True)
            means = compare_means(own_runs, base_runs, references, target_lang=target_lang)
            found[str(beams)] = {
                "seeds": [int(seed) for seed in runs],
                "difference": means.difference,
                "p_value": means.p_value,
            }
    return found


# --- how long it takes ---------------------------------------------------------------------------


def time_steps(idea: Idea, settings: Settings, plain: Settings) -> dict[str, float]:
    """Milliseconds of CPU time that a training step takes, in turns on the same batches.

    `fused` is the package's loop, `loop` the same model step by step, `idea` that with the idea;
    `ratio` is idea / loop. What the idea adds to a step would also be added to the fused one, and
    it weighs more there: `ratio_fused` is 1 + (idea - loop) / fused, or that loop's own ratio.
    """
    narrow = fastest_dtype(torch.device("cpu")) is torch.bfloat16  # as the recipes train
    study = prepare_study(*settings, bf16=narrow)
    batches = list(islice(study.batches(seed=0), RACE_BATCHES))

    def contender(
        patches: Mapping[str, Any], implementation: str | None, own: Settings = plain
    ) -> Contender:
        torch.manual_seed(0)
        with patched(patches):
            model = prepare_model(own, study.tokenizer)
        model.set_implementation(implementation)
        learner = Learner(study, model, total_steps=10**6, warmup=0.5)  # which stays where it is
        return Contender(lambda: [learner.step(batch) for batch in batches], len(batches))

    timings = race(
        {
            "fused": contender({}, None),
            "loop": contender(_LOOP, "reference"),
            "idea": contender({**_LOOP, **idea.patches}, "reference", settings),
            **({} if idea.patches else {"fused_idea": contender({}, None, settings)}),
        },
        ROUNDS,
    )
    steps = {name: round(1000 / timing.rate, 2) for name, timing in timings.items()}
    added = (steps["idea"] - steps["loop"]) / steps["fused"]
    if "fused_idea" in steps:
        added = 1 / timings["fused_idea"].times_as_fast_as(timings["fused"]) - 1
    ratio = 1 / timings["idea"].times_as_fast_as(timings["loop"])
    return {**steps, "ratio": round(ratio, 3), "ratio_fused": round(1 + added, 3)}


def measure_shortlist(
    translator: Translator, settings: Settings, pairs: Mapping[str, Any], sources: Sequence[str]
) -> dict[str, Any]:
    """Give the translator a shortlist, and time it with and without, in turns.

    By sentences of a batch: mean `tokens` of a list, and how many times as fast the `head` and the
    `whole` greedy translation are.
    """
    encoded, _ = encode_pairs(
        pairs["train"], translator.tokenizer, **encoding_options(settings.data)
    )
    shortlist = Shortlist(translator.model, encoded["input_ids"], encoded["labels"])
    sources, found, batch_size = sources[:TIMED_SENTENCES], {}, translator.batch_size

    def translate(with_list: bool) -> list[Any]:
        shortlist.use(with_list)
        return translator.translate(sources, num_beams=1)

    for translator.batch_size in TIMED_BATCHES:
        shortlist.sizes.clear()
        translate(True)
        tokens = round(mean(shortlist.sizes))
        ways = {"plain": False, "list": True}
        timings = race(
            {n: Contender(partial(translate, way), len(sources)) for n, way in ways.items()},
            ROUNDS,
        )
        heads = race(shortlist.heads(tokens, translator.batch_size), ROUNDS)
        found[str(translator.batch_size)] = {
            "tokens": tokens,
            "head": round(heads["list"].times_as_fast_as(heads["plain"]), 2),
            "whole": round(timings["list"].times_as_fast_as(timings["plain"]), 2),
            "sentences_per_second": round(timings["list"].rate, 1),
        }
    translator.batch_size = batch_size
    shortlist.use(True)
    return {"shortlist": {"vocabulary": translator.model.config.vocab_size, "batches": found}}


# --- the page ------------------------------------------------------------------------------------

Results = dict[tuple[str, str], list[dict[str, Any]]]


def load_results(folder: Path) -> Results:
    """What `run` has left, by recipe and name, in the order of `IDEAS`; of each the seeds."""
    found: Results = {}
    every = [json.loads(p.read_text(encoding="utf-8")) for p in sorted(folder.glob("*.json"))]
    for recipe in sorted({result["recipe"] for result in every}, reverse=True):
        for name in IDEAS:
            own = [r for r in every if (r["recipe"], r["name"]) == (recipe, name)]
            if own:
                found[recipe, name] = own
    return found


def page_text(results: Results) -> str:
    """For each recipe a table and where its numbers are from."""
    recipes = dict.fromkeys(recipe for recipe, _ in results)
    parts = [_recipe_text({n: r for (own, n), r in results.items() if own == x}) for x in recipes]
    return "\n\n".join(parts) or "Not measured."


def _recipe_text(results: Mapping[str, list[dict[str, Any]]]) -> str:
    lines = [
        "| | BLEU, greedy | change (p) | BLEU, 5 beams | change (p) | chrF, 5 beams | epochs "
        "| CPU minutes | a step takes |",
        "| --- |" + " ---: |" * 8,
    ]
    for name, of_seeds in results.items():
        fullest = max(of_seeds, key=lambda r: len(r["comparison"].get("5", {}).get("seeds", [])))
        cells = [f"{IDEAS[name].title} (`{name}`)"]
        for beams in map(str, BEAMS):
            cells.append(spread([result["scores"][beams]["bleu"] for result in of_seeds], 1))
            against = fullest["comparison"].get(beams)
            cells.append(
                f"{against['difference']:+.1f} ({against['p_value']:.3f})" if against else "–"
            )
        cells.append(spread([result["scores"]["5"]["chrf"] for result in of_seeds], 1))
        cells.append(f"{mean(result['epochs'] for result in of_seeds):g}")
        cells.append(f"{mean(result['cpu_seconds'] for result in of_seeds) / 60:.1f}")
        steps = [result["steps"] for result in of_seeds if "steps" in result]
        ratios = [mean(s[key] for s in steps) for key in ("ratio", "ratio_fused") if steps]
        cells.append(" to ".join(f"{ratio:.2f} ×" for ratio in ratios) or "–")
        lines.append(f"| {' | '.join(cells)} |")
    every = [result for of_seeds in results.values() for result in of_seeds]
    lines += ["", *_shortlist_lines(results.get("shortlist", [])), _note(every)]
    return "\n".join(lines)


def _shortlist_lines(of_seeds: Sequence[dict[str, Any]]) -> list[str]:
    if not of_seeds:
        return []
    lines = [
        "| sentences in a batch | tokens of a shortlist | of the vocabulary | output layer "
        "| whole greedy translation |",
        "| ---: |" + " ---: |" * 4,
    ]
    for size in map(str, TIMED_BATCHES):
        own = [result["shortlist"]["batches"][size] for result in of_seeds]
        tokens, head, whole = (mean(x[key] for x in own) for key in ("tokens", "head", "whole"))
        vocabulary = of_seeds[0]["shortlist"]["vocabulary"]
        lines.append(
            f"| {size} | {tokens:,.0f} | {vocabulary:,} | {head:.2f} × as fast "
            f"| {whole:.2f} × as fast |"
        )
    return [*lines, ""]


def _note(every: Sequence[dict[str, Any]]) -> str:
    last = max(every, key=lambda result: result["machine"]["date"])
    machine, scores = last["machine"], last["scores"]["5"]
    command = machine["command"].partition(" run ")[0]
    data = " --data FOLDER" if "--data" in machine["command"] else ""
    commits = ", ".join(sorted({result["machine"]["commit"] for result in every}))
    return (
        f"`{command} run NAME --recipe {last['recipe']}{data}`: seed "
        f"{', '.join(map(str, sorted({result['seed'] for result in every})))}; "
        f"{last['pairs']:,} pairs, {scores['num_sentences']:,} sentences, "
        f"`{scores['bleu_signature']}`; {machine['date']}, commit {commits}, "
        f"{machine['processor']}, one thread."
    )


if __name__ == "__main__":
    raise SystemExit(main())
