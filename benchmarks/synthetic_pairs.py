"""Pairs one side of which a model has written, for the ledger.

    python -m benchmarks.synthetic_pairs targets MODEL PAIRS OUTPUT.tsv
    python -m benchmarks.synthetic_pairs sources MODEL PAIRS OUTPUT.tsv

`targets`: MODEL translates the sources, and its translations take the targets' place (knowledge
distillation, Kim and Rush 2016). `sources`: MODEL, of the other direction, translates the targets,
and its translations take the sources' place (back-translation, Sennrich et al. 2016). Pairs are
cleaned as for training, --chinese_script included. A pair whose translation is empty is left out.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch

from bahdanau_hf.data.preprocessing import load_pairs, pair_texts
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.training.arguments import DataArguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Translate and write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.synthetic_pairs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("side", choices=["targets", "sources"], help="that is written anew")
    parser.add_argument("model", help="checkpoint of the direction that this takes")
    parser.add_argument("pairs", help="file of pairs, from the language of the first column")
    parser.add_argument("output", type=Path)
    parser.add_argument("--source_lang", default="en")
    parser.add_argument("--target_lang", default="zh")
    parser.add_argument("--chinese_script", default="keep")
    parser.add_argument("--num_beams", type=int, default=5)
    parser.add_argument("--dtype", default="bfloat16")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    logging.getLogger("bahdanau_hf").setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    data = DataArguments(
        train_file=args.pairs,
        validation_file=args.pairs,
        source_lang=args.source_lang,
        target_lang=args.target_lang,
        chinese_script=args.chinese_script,
    )
    sides = pair_texts(load_pairs(data)[0]["train"], args.source_lang, args.target_lang)
    translator = Translator.from_pretrained(args.model, dtype=args.dtype)
    given = sides[args.side == "sources"]
    written = [found.text for found in translator.translate(given, num_beams=args.num_beams)]
    pairs = zip(given, written, strict=True)
    if args.side == "sources":
        pairs = zip(written, given, strict=True)
    with args.output.open("w", encoding="utf-8") as file:
        file.write(f"{args.source_lang}\t{args.target_lang}\n")
        file.writelines(f"{source}\t{target}\n" for source, target in pairs if source and target)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
