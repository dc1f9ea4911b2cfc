"""Alignment error rate of attention, of a statistical aligner, and of what knows nothing.

    python -m experiments.alignment_error runs/en_zh [runs/guided ...] --backward runs/zh_en [...]

On the 150 hand-made alignments of the bundled pairs; models are runs on the bundled pairs. Each is
scored alone, and each with the backward model at the same place of the list, of whose links and
its own only those are kept that both found. The statistical aligner reads the training pairs and
the 150 pairs themselves, without their links: it learns from any text, and never sees an answer.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from bahdanau_hf.alignment.gold import (
    ReferenceAlignment,
    baselines,
    bundled_alignments,
    score_links,
)
from bahdanau_hf.alignment.ibm_model import NO_LINK, best_sources, link_posteriors
from bahdanau_hf.alignment.words import Link, Word, intersect_links, split_words
from bahdanau_hf.data import bundled_pairs
from bahdanau_hf.data.sources import pair_texts
from bahdanau_hf.inference.alignment_error import alignment_quality
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.metrics.translation import AlignmentScores


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("models", nargs="+", metavar="DIR", help="runs from English to Chinese")
    parser.add_argument("--backward", nargs="*", default=[], metavar="DIR", help="the other way")
    args = parser.parse_args()
    references = bundled_alignments()
    print(
        "| | BLEU | links | precision | recall | AER |\n| --- | ---: | ---: | ---: | ---: | ---: |"
    )
    known = baselines(references)
    print(f"| uniform | | | | | {known['uniform_error_rate']:.3f} |")
    print(f"| diagonal | | | | | {known['diagonal_error_rate']:.3f} |")
    for name, scores in aligner_scores(references).items():
        show(name, scores)
    forward = [Translator.from_pretrained(name, device="cpu") for name in args.models]
    backward = [Translator.from_pretrained(name, device="cpu") for name in args.backward]
    for names, translators in ((args.models, forward), (args.backward, backward)):
        for name, translator in zip(names, translators, strict=True):
            show(name, as_scores(alignment_quality(translator)), bleu_of(name))
    for i, (there, back) in enumerate(zip(forward, backward, strict=False)):
        both = as_scores(alignment_quality(there, back))
        show(f"{args.models[i]} and {args.backward[i]}", both)


def show(name: str, scores: AlignmentScores, bleu: str = "") -> None:
    """One row."""
    rates = f"{scores.precision:.3f} | {scores.recall:.3f} | {scores.error_rate:.3f}"
    print(f"| {name} | {bleu} | {scores.num_links:,} | {rates} |", flush=True)


def as_scores(quality: dict[str, Any]) -> AlignmentScores:
    """What `alignment_quality` says, without the baselines."""
    return AlignmentScores(**{name: quality[name] for name in AlignmentScores._fields})


def bleu_of(folder: str) -> str:
    """BLEU of the test split, as the run has left it, and with how many beams."""
    path = Path(folder) / "eval_results.json"
    test = json.loads(path.read_text(encoding="utf-8")).get("test") if path.exists() else None
    return f"{test['bleu']:.1f}" if test else ""


def aligner_scores(references: list[ReferenceAlignment]) -> dict[str, AlignmentScores]:
    """The statistical aligner on words and characters: one direction, both, and what both found."""
    sides = [list(side) for side in pair_texts(bundled_pairs()["train"], "en", "zh")]
    sides[0] += [own.source for own in references]
    sides[1] += [own.target for own in references]
    ids: dict[str, int] = {}
    sources, targets = (
        [[ids.setdefault(w.text.lower(), len(ids)) for w in split_words(text)] for text in side]
        for side in sides
    )
    last = slice(-len(references), None)
    there = [p.argmax(axis=1).tolist() for p in link_posteriors(sources, targets)[last]]
    back = [p.argmax(axis=1).tolist() for p in link_posteriors(targets, sources)[last]]
    both = best_sources(sources, targets)[last]
    agreed = [
        intersect_links(
            [(i, j) for j, i in enumerate(forward)], [(j, i) for i, j in enumerate(backward)]
        )
        for forward, backward in zip(there, back, strict=True)
    ]
    found = {
        "aligner, English to Chinese": [[(i, j) for j, i in enumerate(own)] for own in there],
        "aligner, both together": [[(i, j) for j, i in enumerate(own)] for own in both],
        "aligner, both agree": agreed,
    }
    return {
        name: score_links(
            [_to_words(own, r) for own, r in zip(links, references, strict=True)], references
        )
        for name, links in found.items()
    }


def _to_words(links: list[Link], reference: ReferenceAlignment) -> set[Link]:
    """Links of Chinese characters as links of the words that they stand in."""
    holders = [_holder(c, reference.target_words) for c in split_words(reference.target)]
    return {(i, holders[j]) for i, j in links if i != NO_LINK}


def _holder(character: Word, words: tuple[Word, ...]) -> int:
    return max(k for k, word in enumerate(words) if word.start <= character.start)


if __name__ == "__main__":
    main()
