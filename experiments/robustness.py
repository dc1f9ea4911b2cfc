"""What a trained model loses where sources are typed less well than what it learnt from.

    python -m experiments.robustness run MODEL TEST_FILE [--chinese_script simplified]
                                         [--num_beams 5] [--results FILE [--cpu_seconds N]]
    python -m experiments.robustness render

Every source is translated as it is, and changed in each way of `WAYS`: without its final mark, in
lower case, with one slip of the fingers. Prints BLEU against the same references, the change
against the sources as they are with the p of a paired bootstrap, and the change of BLEU of
translations and references without their final marks. Then how many sources a way changes, and how
many of those are translated as before, final marks apart. `--results` also writes it to a file,
with seed, noise and decoder of the training. `render` puts the table of
experiments/results/robustness, whose files are called RECIPE-SEED.json and so on, into
experiments/robustness.md.
"""

from __future__ import annotations

import argparse
import json
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bahdanau_hf import Translator
from bahdanau_hf.data import noise
from bahdanau_hf.data.preprocessing import clean_pairs
from bahdanau_hf.data.sources import file_pairs, pair_texts
from bahdanau_hf.metrics.analysis import compare_systems
from bahdanau_hf.metrics.translation import score_translations
from benchmarks.machine import command_line, describe_machine

from .study_report import update_marks

RESULTS = Path(__file__).parent / "results" / "robustness"
PAGE = Path(__file__).parent / "robustness.md"
MODELS = {"tiny": "`tiny`, bundled pairs", "base": "`base`, Tatoeba"}
FINAL_MARKS = re.compile(r"[\s.!?。！？]+$")


def without_mark(text: str) -> str:
    """The text without its full stop, question mark or exclamation mark."""
    return FINAL_MARKS.sub("", text)


def with_slip(text: str) -> str:
    """The text with a slip as training has them; each text always gets the same one."""
    return noise.with_slip(text, random.Random(text))


WAYS: dict[str, Callable[[str], str]] = {
    "no final mark": without_mark,
    "lower case": str.lower,
    "lower case, no final mark": lambda text: without_mark(text).lower(),
    "one slip": with_slip,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.robustness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["run", "render"])
    parser.add_argument("model", nargs="?", help="folder of a trained checkpoint")
    parser.add_argument(
        "test_file", nargs="?", type=Path, help="pairs, as `bahdanau-hf score` reads them"
    )
    parser.add_argument("--chinese_script", default="keep", choices=["keep", "simplified"])
    parser.add_argument("--num_beams", type=int, default=5)
    parser.add_argument("--results", type=Path, help="where to write them as JSON")
    parser.add_argument("--cpu_seconds", type=int, help="of the training, for that file")
    args = parser.parse_args(arguments)
    if args.action == "render":
        update_marks(PAGE, {"noise": noise_table(RESULTS)})
        return 0
    if args.test_file is None:
        parser.error("run needs a model and a test file")
    torch.set_num_threads(1)
    pairs = file_pairs(str(args.test_file), "en", "zh")
    pairs, _ = clean_pairs(pairs, chinese_script=args.chinese_script, training=False)
    sources, targets = pair_texts(pairs, "en", "zh")
    references = [[target] for target in targets]
    translator = Translator.from_pretrained(args.model, device="cpu")
    print(f"{len(sources)} sentences of {args.test_file.name}, {args.num_beams} beams")
    print("| sources | BLEU | change | p | without final marks | changed | of these as before |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")

    def translate(texts: list[str]) -> list[str]:
        return [t.text for t in translator.translate(texts, num_beams=args.num_beams)]

    def bleu_without_marks(texts: list[str]) -> float:
        plain = [without_mark(text) for text in texts]
        return score_translations(
            plain, [[without_mark(t)] for t in targets], target_lang="zh"
        ).bleu

    clean = translate(sources)
    rows = {}
    for name, change in WAYS.items():
        given = [change(source) for source in sources]
        texts = translate(given)
        bleu = compare_systems(texts, clean, references, target_lang="zh")["bleu"]
        others = [i for i, source in enumerate(sources) if given[i] != source]
        kept = sum(without_mark(texts[i]) == without_mark(clean[i]) for i in others)
        rows[name] = {
            **{"bleu": bleu.score, "change": bleu.difference, "p_value": bleu.p_value},
            "as_before": kept / max(1, len(others)),
        }
        p = f"{bleu.p_value:.3f}" if texts != clean else "–"
        plain = bleu_without_marks(texts) - bleu_without_marks(clean)
        print(
            f"| {name} | {bleu.score:.1f} | {bleu.difference:+.1f} | {p} "
            f"| {plain:+.1f} | {len(others)} | {kept / max(1, len(others)):.0%} |",
            flush=True,
        )
    print(bleu.signature)
    if args.results:
        settings = json.loads(Path(args.model, "settings.json").read_text(encoding="utf-8"))
        told = settings["train"]
        clean_bleu = score_translations(clean, references, target_lang="zh").bleu
        results = {
            "machine": describe_machine() | {"command": command_line("experiments.robustness")},
            "seed": told["seed"],
            "source_noise": told.get("source_noise", 0.0),
            "conditional_gru": settings["model"].get("conditional_gru", False),
            "cpu_seconds": args.cpu_seconds,
            "num_sentences": len(sources),
            "signature": bleu.signature,
            "bleu": clean_bleu,
            "ways": rows,
        }
        args.results.parent.mkdir(parents=True, exist_ok=True)
        args.results.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


def noise_table(folder: Path) -> str:
    """Models trained without and with noise, by recipe and seed."""
    lines = [
        "| model | decoder | seed | noise | clean | no mark | change | as before | one slip "
        "| change | CPU minutes |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    found = [(path.stem.split("-")[0], json.loads(path.read_text())) for path in folder.iterdir()]
    order = list(MODELS)

    def place(entry: tuple[str, dict[str, Any]]) -> tuple[Any, ...]:
        recipe, result = entry
        is_new = result.get("conditional_gru", False)
        return order.index(recipe), is_new, result["seed"], result["source_noise"]

    for recipe, result in sorted(found, key=place):
        no_mark, slip = (result["ways"][way] for way in ("no final mark", "one slip"))
        seconds = result["cpu_seconds"]
        decoder = "conditional GRU" if result.get("conditional_gru") else "the paper's"
        cells = [MODELS[recipe], decoder, str(result["seed"]), f"{result['source_noise']:g}"]
        cells += [f"{result['bleu']:.1f}", f"{no_mark['bleu']:.1f}", f"{no_mark['change']:+.1f}"]
        cells += [f"{no_mark['as_before']:.0%}", f"{slip['bleu']:.1f}", f"{slip['change']:+.1f}"]
        cells.append(f"{seconds / 60:.1f}" if seconds else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
