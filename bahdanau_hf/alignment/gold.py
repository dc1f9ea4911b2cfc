"""Links between words that were drawn by hand, and how far found links agree with them.

`pairs/alignments.tsv` holds them for 150 pairs of the bundled test split; `pairs/README.md` says by
which rules they were drawn. English words are those of `split_words`; the Chinese side has words of
one or more characters, so that links are first brought to these words (`WordAlignment.regroup`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import text_lines
from ..languages import base_language
from ..metrics.translation import AlignmentScores, alignment_scores
from .words import Link, Word, WordAlignment, split_words

BUNDLED_ALIGNMENTS = Path(__file__).parents[1] / "pairs" / "alignments.tsv"


@dataclass(frozen=True)
class ReferenceAlignment:
    """A pair and the links `(source word, target word)` between its words."""

    source: str
    target: str
    source_words: tuple[Word, ...]
    target_words: tuple[Word, ...]
    sure: frozenset[Link]  # must be there
    possible: frozenset[Link]  # may be there; the sure ones are among them

    def reversed(self) -> ReferenceAlignment:
        """The same of the other direction."""
        sure, possible = (frozenset((j, i) for i, j in s) for s in (self.sure, self.possible))
        return ReferenceAlignment(
            self.target, self.source, self.target_words, self.source_words, sure, possible
        )


def bundled_alignments(
    source_lang: str = "en", target_lang: str = "zh"
) -> list[ReferenceAlignment]:
    """The 150 alignments that come with the package, all of pairs of the bundled test split.

    Raises:
        InputError: languages other than English and Chinese.
    """
    languages = (base_language(source_lang), base_language(target_lang))
    if languages not in (("en", "zh"), ("zh", "en")):
        raise InputError(
            f"the bundled alignments are between en and zh, not {source_lang} and {target_lang}"
        )
    _, *lines = text_lines(BUNDLED_ALIGNMENTS)
    alignments = [_parse(*line.split("\t")) for line in lines]
    return alignments if languages == ("en", "zh") else [a.reversed() for a in alignments]


def _parse(english: str, chinese: str, sure: str, possible: str) -> ReferenceAlignment:
    """One line of the file: Chinese words stand apart, links are `English word-Chinese word`."""
    words: list[Word] = []
    for text in chinese.split(" "):
        start = words[-1].end if words else 0
        words.append(Word(text, start, start + len(text)))
    must, may = (
        {(int(i), int(j)) for i, j in (item.split("-") for item in items.split())}
        for items in (sure, possible)
    )
    return ReferenceAlignment(
        english,
        "".join(word.text for word in words),
        tuple(split_words(english)),
        tuple(words),
        frozenset(must),
        frozenset(must | may),
    )


def score_links(
    links: Iterable[Iterable[Link]], references: Sequence[ReferenceAlignment]
) -> AlignmentScores:
    """AER of links between the words of the references."""
    return alignment_scores(links, [r.sure for r in references], [r.possible for r in references])


def links_between_reference_words(
    found: Sequence[WordAlignment], references: Sequence[ReferenceAlignment]
) -> list[list[Link]]:
    """The links of alignments of the same pairs, between the references' words."""
    return [
        alignment.regroup(reference.source_words, reference.target_words).links
        for alignment, reference in zip(found, references, strict=True)
    ]


# --- what knows nothing of the words -------------------------------------------------------------


def diagonal_links(num_source: int, num_target: int) -> list[Link]:
    """Each target word with the source word at the same part of the sentence."""
    return [((2 * j + 1) * num_source // (2 * num_target), j) for j in range(num_target)]


def baselines(references: Sequence[ReferenceAlignment]) -> dict[str, Any]:
    """AER of uniform and of diagonal links: what a model has to be better than.

    Uniform is the mean over links of each target word with a source word drawn at random. Both
    counts of AER are sums over links, so that it is found without drawing any.
    """
    num_links = sum(len(r.target_words) for r in references)
    num_sure = sum(len(r.sure) for r in references)
    hits = sum((len(r.sure) + len(r.possible)) / len(r.source_words) for r in references)
    diagonal = [diagonal_links(len(r.source_words), len(r.target_words)) for r in references]
    return {
        "uniform_error_rate": 1 - hits / (num_links + num_sure),
        "diagonal_error_rate": score_links(diagonal, references).error_rate,
    }
