"""`python -m experiments.int8_quality MODEL TEST_FILE`: what fewer bits cost in quality, and gain.

Prints BLEU and chrF with their signatures, and sentences per CPU second on one thread, of a trained
checkpoint in each number format, greedy and with beams.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from bahdanau_hf import Translator
from bahdanau_hf.data.preprocessing import clean_pairs, pair_texts, read_pairs
from bahdanau_hf.metrics.translation import score_translations
from bahdanau_hf.training.arguments import DataArguments

DTYPES = ("float32", "bfloat16", "int8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="experiments.int8_quality", description=__doc__)
    parser.add_argument("model", help="folder of a trained checkpoint")
    parser.add_argument("test_file", type=Path, help="pairs, as `bahdanau-hf score` reads them")
    parser.add_argument("--chinese_script", default="keep", choices=["keep", "simplified"])
    parser.add_argument("--num_beams", type=int, nargs="+", default=[1, 5], metavar="N")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    data = DataArguments(train_file=str(args.test_file), chinese_script=args.chinese_script)
    pairs, _ = clean_pairs(read_pairs(data)["train"], data, training=False)
    sources, targets = pair_texts(pairs, data.source_lang, data.target_lang)
    references = [[target] for target in targets]
    reference: dict[int, list[str]] = {}
    print(f"{len(sources)} sentences of {args.test_file}")
    print("| | beams | BLEU | chrF | other than float32 | sentences/CPU s |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    signatures = ""
    for dtype in DTYPES:
        translator = Translator.from_pretrained(args.model, device="cpu", dtype=dtype)
        translator.translate(sources[:64])  # lays the weights out
        for beams in args.num_beams:
            start = time.process_time()
            texts = [t.text for t in translator.translate(sources, num_beams=beams)]
            rate = len(sources) / (time.process_time() - start)
            scores = score_translations(texts, references, target_lang=data.target_lang).as_dict()
            expected = reference.setdefault(beams, texts)
            others = sum(a != b for a, b in zip(texts, expected, strict=True))
            bleu, chrf = scores["bleu"], scores["chrf"]
            print(
                f"| {dtype} | {beams} | {bleu:.2f} | {chrf:.2f} | {others} | {rate:.0f} |",
                flush=True,
            )
            signatures = f"BLEU {scores['bleu_signature']}, chrF {scores['chrf_signature']}"
    print(signatures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
