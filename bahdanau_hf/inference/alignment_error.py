"""How far a model's attention agrees with the links between words that were drawn by hand."""

from __future__ import annotations

from typing import Any

from ..alignment.gold import (
    ReferenceAlignment,
    baselines,
    bundled_alignments,
    links_between_reference_words,
    score_links,
)
from ..alignment.words import Link, intersect_links
from ..errors import InputError
from .translator import Translator


def alignment_quality(translator: Translator, backward: Translator | None = None) -> dict[str, Any]:
    """Alignment error rate of the model's links on the bundled alignments.

    Each pair's translation is handed to the model word by word; a link goes from each of its words
    to the source word with the most attention. With a model of the other direction, `backward`,
    only links that both find are scored.

    Returns:
        `error_rate`, `precision` and `recall` in [0, 1], `num_links`, `num_sentences`, and
        `uniform_error_rate` and `diagonal_error_rate`, which know nothing of the words.

    Raises:
        InputError: other languages, models of the same direction, or one without attention.
    """
    languages = _languages(translator)
    references = bundled_alignments(*languages)
    links = _links(translator, references)
    if backward is not None:
        if _languages(backward) != languages[::-1]:
            raise InputError(
                f"the two models must be of opposite directions, but translate from "
                f"{' to '.join(languages)} and from {' to '.join(_languages(backward))}"
            )
        reverse = _links(backward, [reference.reversed() for reference in references])
        links = [intersect_links(*both) for both in zip(links, reverse, strict=True)]
    scores = score_links(links, references)
    rates = {**scores._asdict(), "num_sentences": len(references), **baselines(references)}
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in rates.items()}


def _languages(translator: Translator) -> tuple[str, str]:
    known = translator.tokenizer.init_kwargs
    return str(known.get("source_lang", "en")), str(known.get("target_lang", "zh"))


def _links(translator: Translator, references: list[ReferenceAlignment]) -> list[list[Link]]:
    """Of each pair the links between the reference's words."""
    sources, targets = [r.source for r in references], [r.target for r in references]
    alignments = translator.align_pairs(sources, targets)
    found = [alignment.words for alignment in alignments if alignment.words is not None]
    return links_between_reference_words(found, references)
