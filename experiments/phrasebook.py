"""Translate the hundred sentences of a phrase book, score them and print them for a person's eye.

    python -m experiments.phrasebook MODEL [--num_beams 5]

The sentences stand in `tests/fixtures/phrasebook.tsv`, each with one to three references. None is
in the bundled pairs or one word away from one there, and all their words are in the training pairs
five times at least: what is tested is whether known words are put together rightly. `=` marks a
translation that equals a reference. Another one may be as good, which only a reader can tell.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

from bahdanau_hf import Translator
from bahdanau_hf.metrics.translation import score_translations

SENTENCES = Path(__file__).parents[1] / "tests" / "fixtures" / "phrasebook.tsv"


def read_phrasebook() -> list[tuple[str, list[str]]]:
    """Each English sentence with its Chinese references."""
    with SENTENCES.open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    return [(english, [text for text in chinese if text]) for english, *chinese in rows]


def main() -> None:
    """Print every sentence, its translation and its references, then the scores."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("model", metavar="MODEL", help="folder or name of a checkpoint")
    parser.add_argument("--num_beams", type=int, default=5)
    args = parser.parse_args()
    phrasebook = read_phrasebook()
    translator = Translator.from_pretrained(args.model, device="cpu")
    results = translator.translate([english for english, _ in phrasebook], num_beams=args.num_beams)
    translations = [result.text for result in results]
    num_exact = 0
    for (english, references), translation in zip(phrasebook, translations, strict=True):
        is_exact = translation in references
        num_exact += is_exact
        print(f"{'=' if is_exact else ' '} {english}\n    {translation}")
        if not is_exact:
            print(f"    ({' / '.join(references)})")
    scores = score_translations(translations, [references for _, references in phrasebook])
    print(f"\n{num_exact} of {len(phrasebook)} equal a reference; {scores}")


if __name__ == "__main__":
    main()
