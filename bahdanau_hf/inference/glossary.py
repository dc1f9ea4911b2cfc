"""Words whose translation is given, and how they get into a translation exactly as they are given.

The search goes freely first. Where a given text is missing, the translation is cut before the place
at which the model looked at its source word, the text is put there, and the search goes on behind
it: the rest is written knowing it. This is repeated from left to right until nothing is missing.

Dimensions: S source tokens, T target tokens.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from ..alignment.words import Span, clean_with_origins, read_spans, word_starts, written_spans
from ..errors import InputError
from ..files import text_lines
from ..languages import CJK
from ..modeling.pipeline_bahdanau import Hypothesis, encode_sentences
from ..modeling.text_bahdanau import ADDRESS, EOS_ID, UNK_ID, clean_text
from .translation import Draft, Given, join_tokens, put_given

_INSIDE_WORD = re.compile(rf"[^\W{CJK}]{{2}}|.[\u0300-\u036f]")


class Term(NamedTuple):
    """A piece of a text, `text[start:end]`, and what must stand for it in the translation."""

    start: int
    end: int
    target: str


class Glossary:
    """Words whose translation is given, and words that are copied.

    URLs and e-mail addresses are copied by every glossary.

    Args:
        terms: source words and their translations. A term stands for whole words: as it is written,
            or in any case if it has no capitals.
        patterns: regular expressions; what they match is copied.

    Raises:
        InputError: a term without words on one of its sides, or a pattern that is none.
    """

    def __init__(
        self, terms: Mapping[str, str] | None = None, patterns: Sequence[str] = ()
    ) -> None:
        self.terms: dict[str, str] = {}
        for source, target in (terms or {}).items():
            if not (isinstance(source, str) and isinstance(target, str)):
                raise InputError(f"a glossary holds texts, not {source!r:.40}: {target!r:.40}")
            if not clean_text(source) or not clean_text(target):
                raise InputError(f"a glossary's terms need words: {source!r:.40}, {target!r:.40}")
            self.terms[clean_text(source)] = " ".join(target.strip().splitlines())
        self._in_any_case = {term: self.terms[term] for term in self.terms if term.islower()}
        self._lengths = _lengths(self.terms)
        self._patterns = [ADDRESS]
        for pattern in patterns:
            try:
                self._patterns.append(re.compile(pattern))
            except (re.error, TypeError) as error:
                raise InputError(f"{pattern!r:.60} is no regular expression: {error}") from None

    @classmethod
    def from_file(cls, path: str | Path) -> Glossary:
        """Read lines of a source term, a tab and its translation, or of a term that is copied.

        Blank lines are skipped; of a term's lines the first counts.

        Raises:
            InputError: unreadable, or a line that is not made so.
        """
        terms: dict[str, str] = {}
        for number, line in enumerate(text_lines(path), start=1):
            source, *targets = line.split("\t")
            if not line.strip():
                continue
            if len(targets) > 1 or not all(clean_text(text) for text in (source, *targets)):
                raise InputError(
                    f"{path}:{number}: not a source term, one tab and its translation, nor a term "
                    f"alone: {line!r:.60}"
                )
            terms.setdefault(clean_text(source), (targets or [source])[0])
        return cls(terms)

    def find(self, text: str) -> list[Term]:
        """The terms in a text, from left to right; where several begin, the longest."""
        clean = clean_text(text)
        found = [match.span() for pattern in self._patterns for match in pattern.finditer(clean)]
        terms: dict[Span, str | None] = {span: None for span in found if span[0] < span[1]}
        terms |= _find_phrases(clean, self._lengths, self._target)
        if not terms:
            return []
        origins = [(i, i + 1) for i in range(len(clean))]
        if clean != text:
            _, origins = clean_with_origins(text)
        kept: list[Term] = []
        for start, end in sorted(terms, key=lambda span: (span[0], -span[1])):
            target, first, last = terms[start, end], origins[start][0], origins[end - 1][1]
            if not kept or first >= kept[-1].end:
                if target is None:  # a translation is one line
                    target = text[first:last]
                    target = target if target.isprintable() else clean[start:end]
                kept.append(Term(first, last, target))
        return kept

    def replace(self, text: str) -> str:
        """A text with its terms' translations in their places, and nothing else changed."""
        for start, end, target in reversed(self.find(text)):
            text = text[:start] + target + text[end:]
        return text

    def _target(self, words: str) -> str | None:
        if words in self.terms:
            return self.terms[words]
        target = self._in_any_case.get(words.lower())
        return words if target == words.lower() else target  # a copy has the text's capitals


def _lengths(phrases: Iterable[str]) -> list[int]:
    return sorted({len(phrase) for phrase in phrases}, reverse=True)


def _find_phrases(
    text: str, lengths: Sequence[int], look_up: Callable[[str], str | None]
) -> dict[Span, str]:
    """What is found of a text's pieces of these lengths that are whole words; no two overlap."""
    found: dict[Span, str] = {}
    start = 0
    while lengths and start < len(text):
        for end in (start + length for length in lengths if start + length <= len(text)):
            if _cuts(text, start) and _cuts(text, end) and (target := look_up(text[start:end])):
                found[start, end] = target
                start = end - 1
                break
        start += 1
    return found


def _cuts(text: str, place: int) -> bool:
    """Whether no word goes across this place."""
    return not _INSIDE_WORD.match(text[max(0, place - 1) : place + 1])


# --- into the translations -----------------------------------------------------------------------


def keep_terms(
    drafts: Iterable[Draft],
    glossary: Glossary,
    tokenizer: PreTrainedTokenizerFast,
    target_tokenizer: PreTrainedTokenizerFast,
    vocab_size: int,
    search: Callable[[Sequence[Draft]], None],
    attend: Callable[[list[tuple[list[int], list[int]]]], Iterator[np.ndarray]] | None,
) -> None:
    """Search again for translations that lack a term: those drafts are begun anew.

    `search` goes on from where drafts were begun. `attend` says where the model looked, `(T, S)`,
    for each pair of source and target; without attention it is `None`, and a term stands as far
    from the start as in the source.
    """
    found = ((draft, glossary.find(draft.sentence.text)) for draft in drafts)
    known = (tokenizer, target_tokenizer, vocab_size)
    waiting = [_Constraint(draft, terms, *known) for draft, terms in found if terms]
    while waiting := [one for one in waiting if one.missing()]:
        weights: Iterable[np.ndarray | None] = repeat(None)
        if attend is not None:
            weights = attend([(one.draft.sentence.ids, one.draft.found[0].ids) for one in waiting])
        pairs = zip(waiting, weights, strict=False)
        search([one.draft for one, looked in pairs if one.place_next(looked)])


class _Constraint:
    """A draft and the terms that its translations must have."""

    def __init__(
        self,
        draft: Draft,
        terms: Sequence[Term],
        tokenizer: PreTrainedTokenizerFast,
        target_tokenizer: PreTrainedTokenizerFast,
        vocab_size: int,
    ) -> None:
        self.draft, self._tokenizer, self._vocab_size = draft, tokenizer, vocab_size
        self._target_tokenizer = target_tokenizer
        self._wanted = Counter(term.target for term in terms)
        self._lengths = _lengths(self._wanted)
        self._left = list(terms)  # that were not put anywhere
        spans = read_spans(tokenizer, draft.sentence.text, len(draft.sentence.ids))
        self._columns = {
            term: [i for i, s in enumerate(spans) if s and s[0] < term.end and term.start < s[1]]
            for term in terms
        }

    def missing(self) -> list[Term]:
        """Terms that the best translation lacks; others that lack some are dropped."""
        lacking = [self._lacking(found) for found in self.draft.found]
        if not lacking[0]:
            pairs = zip(self.draft.found, lacking, strict=True)
            self.draft.found = [found for found, lacks in pairs if not lacks]
        return lacking[0]

    def _lacking(self, found: Hypothesis) -> list[Term]:
        text = self._written(found.ids)[1]
        present = _find_phrases(text, self._lengths, lambda words: words * (words in self._wanted))
        lacking = self._wanted - Counter(present.values())
        return [term for term in self._left if term.target in lacking]

    def _written(self, ids: list[int]) -> tuple[list[str], str]:
        """A translation's tokens, given texts among them, and the line that they make."""
        tokens = self._tokenizer.convert_ids_to_tokens(ids)
        put = put_given(self._tokenizer, tokens, self.draft.given)
        return put, join_tokens(self._tokenizer, put, self.draft.given)

    def place_next(self, weights: np.ndarray | None) -> bool:
        """Begin the translation with what stands before the first missing term, and this term.

        Terms of which the model has read nothing are put behind the best translation at last.
        Returned is whether the search has to go on from there.
        """
        best, missing = self.draft.found[0], self.missing()
        end = len(best.ids) - (best.ids[-1:] == [EOS_ID])
        if read := [term for term in missing if self._columns[term]]:
            tokens, text = self._written(best.ids)
            starts = word_starts(text, written_spans(tokens, text))
            places = [self._place(term, end, starts, weights) for term in read]
            place, term = min(zip(places, read, strict=True))
            self._put(best.ids[:place], term)
            return True
        self.draft.begun = best.ids[:end]
        for term in missing:
            self._put(self.draft.begun, term)
        self.draft.found = [best._replace(ids=[*self.draft.begun, *best.ids[end:]])]
        return False

    def _place(self, term: Term, end: int, starts: set[int], weights: np.ndarray | None) -> int:
        """The token of the best translation, at the start of a word, in whose place a term goes."""
        begun, columns = len(self.draft.begun), self._columns[term]
        if begun >= end:
            return begun
        if weights is None:
            text = self.draft.sentence.text
            place = max(begun, end * term.start // len(text))
        else:
            looked = weights[:end].argmax(axis=1)
            place = begun + int(weights[begun:end, columns].sum(axis=1).argmax())
            while place > begun and looked[place - 1] in columns:
                place -= 1
        while place > begun and place not in starts:
            place -= 1
        return place

    def _put(self, ids: list[int], term: Term) -> None:
        """Let the translation begin with these tokens and a term."""
        (spelt,) = encode_sentences(self._target_tokenizer, [term.target])
        known = [i for i in spelt.ids[:-1] if i < self._vocab_size and i != UNK_ID]
        # What the decoder cannot spell stands there as an unknown word.
        stand_in = known if known and len(known) == len(spelt.ids) - 1 else [UNK_ID]
        self.draft.begun = [*ids, *stand_in]
        self.draft.given.append(Given(len(ids), len(self.draft.begun), term.target))
        self._left.remove(term)
