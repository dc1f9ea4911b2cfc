"""What a trained model loses where sources are typed less well than what it learnt from.

    python -m experiments.robustness MODEL TEST_FILE [--chinese_script simplified] [--num_beams 5]

Every source is translated as it is, and changed in each way of `WAYS`: without its final mark, in
lower case, with one slip of the fingers. Prints BLEU against the same references, the change
against the sources as they are with the p of a paired bootstrap, and the change of BLEU of
translations and references without their final marks. Then how many sources a way changes, and how
many of those are translated as before, final marks apart.
"""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from bahdanau_hf import Translator
from bahdanau_hf.data.noise import with_slip
from bahdanau_hf.data.preprocessing import clean_pairs
from bahdanau_hf.data.sources import file_pairs, pair_texts
from bahdanau_hf.metrics.analysis import compare_systems
from bahdanau_hf.metrics.translation import score_translations

FINAL_MARKS = re.compile(r"[\s.!?。！？]+$")


def without_mark(text: str) -> str:
    """The text without its full stop, question mark or exclamation mark."""
    return FINAL_MARKS.sub("", text)


WAYS: dict[str, Callable[[str], str]] = {
    "no final mark": without_mark,
    "lower case": str.lower,
    "lower case, no final mark": lambda text: without_mark(text).lower(),
    "one slip": lambda text: with_slip(text, random.Random(text)),  # always the same
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.robustness",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", help="folder of a trained checkpoint")
    parser.add_argument("test_file", type=Path, help="pairs, as `bahdanau-hf score` reads them")
    parser.add_argument("--chinese_script", default="keep", choices=["keep", "simplified"])
    parser.add_argument("--num_beams", type=int, default=5)
    args = parser.parse_args(arguments)
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
    for name, change in WAYS.items():
        given = [change(source) for source in sources]
        texts = translate(given)
        bleu = compare_systems(texts, clean, references, target_lang="zh")["bleu"]
        others = [i for i, source in enumerate(sources) if given[i] != source]
        kept = sum(without_mark(texts[i]) == without_mark(clean[i]) for i in others)
        p = f"{bleu.p_value:.3f}" if texts != clean else "–"
        plain = bleu_without_marks(texts) - bleu_without_marks(clean)
        print(
            f"| {name} | {bleu.score:.1f} | {bleu.difference:+.1f} | {p} "
            f"| {plain:+.1f} | {len(others)} | {kept / max(1, len(others)):.0%} |",
            flush=True,
        )
    print(bleu.signature)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
