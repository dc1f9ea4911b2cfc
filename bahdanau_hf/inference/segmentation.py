"""Cuts a text into sentences, and a sentence that is too long into clauses, and joins them again.

Nothing is dropped. Rules, not a model: they know full stops of Latin and of Chinese text,
abbreviations, initials, numbers, quotes and ellipses. Where they are in doubt they do not cut: two
sentences in one piece are still translated, half a sentence is translated worse.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..alignment.words import is_wide
from ..languages import CJK

_CLOSING = "\"'’”»)\\]}〉》」』】）"
_OPENING = "\"'‘“«(\\[{〈《「『【（¿¡"
# Characters, by ranges, that stand for what is no text in a document: marks.
PLACEHOLDERS, OPENING_TAGS, CLOSING_TAGS = "\ue000-\ue7ff", "\ue800-\uefff", "\uf000-\uf7ff"
MARKS = PLACEHOLDERS + OPENING_TAGS + CLOSING_TAGS
_BEHIND = f"[{_CLOSING}{CLOSING_TAGS}]*"
# A full stop of Chinese needs no space behind it; one of Latin text does, or "3.14" would be cut.
_ENDS = re.compile(f"[。！？｡]+{_BEHIND}|[!?]+{_BEHIND}(?=[{CJK}])|[.!?…؟۔।]+{_BEHIND}(?=\\s)")
_SPACE = re.compile(r"\s+")
_LAST_WORD = re.compile(r"[^\s" + _OPENING + r"]*$")
_FIRST_LETTER = re.compile(f"[{_OPENING}{MARKS}\\s—–-]*([^\\W_])")
_INITIALS = re.compile(r"(?:[^\W\d_]\.)+$")
_ENUMERATOR = re.compile(r"(?:^|\n|(\S*)[.!?。！？])\s*\(?\d{1,3}$")  # "1." in front of a sentence
# A full stop behind these ends no sentence, or none where a number follows.
_BEFORE_MORE = """
    adj adm al apr approx aug ave bd bros bzw ca capt cf col dec dept dgl dr ed eds est fam feb gen
    gov hon hr inc jan jr jul jun lt ltd mar messrs mme mr mrs ms mt mx nov oct prof rep rev sen sep
    sept sgt sog sr st supt tel univ usw viz vs
"""
_BEFORE_NUMBERS = "art ch chap eq fig figs m no nos nr op p pg pp pt vol vols z"
_ABBREVIATIONS = frozenset(_BEFORE_MORE.split())
_NUMBERED = frozenset(_BEFORE_NUMBERS.split())
# Where a sentence that is too long may be cut, best first.
_CUTS = tuple(
    re.compile(cut)
    for cut in (
        rf"[；：][{_CLOSING}]*\s*|[;:][{_CLOSING}]*\s+",
        rf"[，、]\s*|,(?=[{CJK}])|,[{_CLOSING}]*\s+|\s+[—–-]+\s+|——",
        r"\s+",
        r"(?<=.)(?=.)",
    )
)


class Piece(NamedTuple):
    """A sentence and the white space behind it."""

    text: str
    space: str


def split_sentences(text: str) -> list[Piece]:
    """Cut a text into its sentences.

    Line breaks always cut. Texts and spaces of all pieces, one after the other, are the text again;
    a text that begins with white space begins with a piece without text.
    """
    spaces = {space.start(): space.end() for space in _SPACE.finditer(text)}
    ends = {end: after for end, after in spaces.items() if _breaks_line(text[end:after])}
    ends[len(text.rstrip())] = len(text)
    for mark in _ENDS.finditer(text):
        after = spaces.get(mark.end(), mark.end())
        if after < len(text) and not _goes_on(text, mark, after):
            ends[mark.end()] = after
    start = len(text) - len(text.lstrip())
    pieces = [Piece("", text[:start])] if start else []
    for end, after in sorted(ends.items()):
        if end > start:
            pieces.append(Piece(text[start:end], text[end:after]))
            start = after
    return pieces


def _breaks_line(space: str) -> bool:
    return bool(space) and space.splitlines() != [space]


def _goes_on(text: str, match: re.Match[str], after: int) -> bool:
    """Whether the sentence goes on behind what looks like its end."""
    mark = match.group()
    if mark[0] in "。！？｡":
        return False
    first = _FIRST_LETTER.match(text, after)
    if first is None or first[1].islower():
        return True
    if mark[0] != "." or mark.startswith(".."):
        return False
    before = text[max(0, match.start() - 32) : match.start()]
    last = _LAST_WORD.findall(before)[0]
    if last.lower() in _NUMBERED and text[after].isdecimal():
        return True
    if last.lower() in _ABBREVIATIONS or _INITIALS.fullmatch(f"{last}."):
        return True
    number = _ENUMERATOR.search(before)
    return number is not None and (number[1] or "").lower() not in _NUMBERED


def split_clauses(sentence: str, fits: Callable[[str], bool], level: int = 0) -> list[Piece]:
    """Cut a sentence into as few pieces as do, each of which fits.

    It is cut behind semicolons and colons, where that does not do behind commas and dashes, then
    between words, at last between characters (levels 0 to 3); a single character always counts as
    fitting. The pieces are the sentence again, as those of `split_sentences`.
    """
    if level == len(_CUTS) or fits(sentence):
        bare = sentence.rstrip()
        return [Piece(bare, sentence[len(bare) :])]
    places = [0, *(match.end() for match in _CUTS[level].finditer(sentence)), len(sentence)]
    pieces: list[Piece] = []
    held = ""
    for part in (sentence[start:end] for start, end in pairwise(places) if start < end):
        if held and not fits(held + part):
            pieces += split_clauses(held, fits, level + 1)
            held = ""
        held += part
    return pieces + split_clauses(held, fits, level + 1)


def join_pieces(pieces: Sequence[Piece], texts: Sequence[str]) -> str:
    """Join the translations of a text's pieces, with the line breaks that stood between these.

    Other white space becomes one space, or none beside a wide character: Chinese and Japanese
    sentences follow each other without; Korean ones do not.
    """
    joined = []
    for piece, text, following in zip(pieces, texts, [*texts, ""][1:], strict=True):
        space = piece.space
        if text and following and not _breaks_line(space):
            beside = without_marks(text)[-1:] + without_marks(following)[:1]
            two = re.fullmatch(f"[{PLACEHOLDERS}]{{2}}", text[-1] + following[0])
            space = "" if any(map(is_wide, beside)) and not two else " "
        joined += [text, space]
    return "".join(joined)


def without_marks(text: str) -> str:
    """A text as it reads without what its marks stand for."""
    return re.sub(rf"(?<!\S)[{MARKS}]+(?:\s+|$)|\s+[{MARKS}]+(?!\w)|[{MARKS}]", "", text)
