"""Which column of a table, and which of two aligned files, holds the source and which the target.

Asked in turn: what the user says (`source_column`, `target_column`: a name, or a number from 1),
the header, the names of the files, the script of the text, and the order of Tatoeba's files. Where
nothing tells, the source is taken to stand first. Nothing here opens a file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import InputError
from ..languages import base_language, is_name, language_of, letter_script, letters_of

ROWS_LOOKED_AT = 200
_ROLES = {
    **dict.fromkeys(["source", "src", "original"], "source"),
    **dict.fromkeys(["target", "tgt", "trg", "reference", "ref"], "target"),
}
_FILLERS = {"text", "texts", "sentence", "sentences", "sent", "string", "segment", "translation"}
_WORD = re.compile(r"[^\W_]+")
_MARK = re.compile(r"[^\w\s()-]")
_NAME = re.compile("[a-z][a-z0-9-]*")
_MOST_NAMES, _MOST_LINES = 10, 5  # in a message; on how sides were told apart
_LONGEST = 500  # characters of a text that are looked at
# Letters beyond ASCII tell another language of Latin script from English, which has few of them,
# if so many rows speak for it.
_LEAST_ACCENTS, _LEAST_SHARE_OF_ACCENTS = 2, 0.05


class NoColumns(InputError):
    """Nothing in a file tells which columns to take; `fact` is the message without its advice."""

    def __init__(self, fact: str, advice: str) -> None:
        super().__init__(f"{fact}. {advice}")
        self.fact = fact


class Told(NamedTuple):
    """How sides were told apart: whether the target stands first, and a line that says it.

    `pair` is the first that was read so, or None where nothing was.
    """

    target_is_first: bool
    line: str
    pair: tuple[str | None, str | None] | None = None

    def __str__(self) -> str:
        """For the user: the line, and the first pair, in short."""
        pair = ["none"] if self.pair is None else [shorten(text) for text in self.pair]
        return f"{self.line}; first pair: {' -> '.join(pair)}"


@dataclass(frozen=True)
class Sides:
    """Tells source from target by the languages of a run, its flags, and what it finds in a file.

    Columns are names, or numbers from 1. `told` receives how the sides of each file were told.
    """

    source_lang: str
    target_lang: str
    source_column: str | None = None
    target_column: str | None = None
    told: list[Told] = field(default_factory=list)

    @property
    def languages(self) -> tuple[str, str]:
        """The codes of both."""
        return self.source_lang, self.target_lang

    @property
    def _bases(self) -> tuple[str, str]:
        return base_language(self.source_lang), base_language(self.target_lang)

    @property
    def _wanted(self) -> tuple[str | None, str | None]:
        return self.source_column, self.target_column

    def of_table(self, where: str, head: Sequence[Sequence[str]]) -> tuple[int, int, bool]:
        """The places of source and target in a table, and whether the first row names its columns.

        Raises:
            InputError: the first row names other languages, or nothing tells which columns to take.
        """
        names = head[0]
        plain = set(map(_plain, names))
        has_header = (
            self.find(names) is not None
            or self._is_header(names)
            or any(_plain(w) in plain for w in self._wanted if w and not w.isdecimal())
        )
        places, how = self._places(where, names, "by the header", has_header)
        if places is None:
            if has_header or not (len(names) == 2 or _is_attributed(names)):
                raise self.no_columns(where, names)
            swapped, how = self._order(head)
            places = (1, 0) if swapped else (0, 1)
        shown = [f"column {names[i]!r:.40}" if has_header else f"column {i + 1}" for i in places]
        self._tell(where, shown, how, places[0] > places[1])
        return *places, has_header

    def of_names(self, where: str, names: Sequence[str]) -> tuple[str, str]:
        """The names of source and target among those of a record.

        Raises:
            InputError: nothing tells.
        """
        places, how = self._places(where, names, "by the names")
        if places is None:
            raise self.no_columns(where, names)
        source, target = (names[place] for place in places)
        shown = [f"column {name!r:.40}" for name in (source, target)]
        self._tell(where, shown, how, places[0] > places[1])
        return source, target

    def target_is_first(self, names: Sequence[str], head: Sequence[Sequence[str]]) -> bool:
        """Whether the first of two aligned files, of these names and first lines, is the target.

        Of the flags only numbers matter: such files have no names of columns.

        Raises:
            InputError: the names of the files name other languages.
        """
        source, target = self.source_column or "", self.target_column or ""
        if source.isdecimal() or target.isdecimal():
            if {source, target} not in ({"1", ""}, {"2", ""}, {"1", "2"}):
                raise InputError(
                    f"{' and '.join(names)}: --source_column and --target_column can be 1 and 2, "
                    "the number of the file"
                )
            swapped, how = source == "2" or target == "1", "as the flags say"
        elif (by_name := self._target_is_first_by_name(names)) is not None:
            swapped, how = by_name, "by the names of the files"
        else:
            swapped, how = self._order(head)
        self._tell("", names[::-1] if swapped else names, how, swapped)
        return swapped

    def show(self, pair: tuple[str | None, str | None] | None) -> None:
        """Keep the first pair that was read as was told last."""
        self.told[-1] = self.told[-1]._replace(pair=pair)

    def find(self, names: Sequence[str]) -> tuple[str, str] | None:
        """Which two of `names` hold the source and the target, or None.

        Tried in turn: the language codes themselves, their names or variants (`zh-CN`, `Chinese`,
        `sentence_eng_Latn`), `non_english` for what is not English, `translation` beside the
        source, `source` and `target`. A name that fits twice does not count.
        """
        source = _language_column(names, self.source_lang, self.target_lang)
        target = _language_column(names, self.target_lang, self.source_lang)
        other = _only(name for name in names if _plain(name) in ("non-english", "nonenglish"))
        if self._bases[0] == "en":
            target = target or other
        if self._bases[1] == "en":
            source = source or other
        if source and target and source != target:
            return source, target
        sources, targets = ([n for n in names if _role(n) == r] for r in ("source", "target"))
        if len(sources) == len(targets) == 1:
            return sources[0], targets[0]
        first = source or _only(sources)
        translation = _only(name for name in names if _plain(name) == "translation")
        return (first, translation) if first and translation and not (target or targets) else None

    def no_columns(self, where: str, names: Iterable[str]) -> NoColumns:
        """The error for a table in which `find` finds nothing."""
        names = list(names)
        shown = [shorten(name, 39) for name in names]
        more = len(shown) - _MOST_NAMES
        found = ", ".join(shown[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
        run = self._bases
        named = dict.fromkeys(
            _language(n, *run, everywhere=True) for n in names if _plain(n) not in ("id", "no")
        )
        others = [lang for lang in named if lang not in (None, *run)][:3]
        advice = "Say which by --source_column and --target_column, a name or a number"
        if others and (run[0] in named) != (run[1] in named):
            flag = "target" if run[0] in named else "source"
            advice = f"Give --{flag}_lang {' or '.join(map(str, others))}, or s{advice[1:]}"
        elif len(others) > 1:
            advice = f"Give --source_lang {others[0]} --target_lang {others[1]}, or s{advice[1:]}"
        fact = f"{where}: no columns for {self.source_lang} and {self.target_lang}; it has: {found}"
        return NoColumns(fact, advice)

    def _places(
        self, where: str, names: Sequence[str], by_names: str, are_names: bool = True
    ) -> tuple[tuple[int, int] | None, str]:
        """The places of source and target, if flags or names tell them; and how they were told."""
        found = self.find(names)
        if not any(self._wanted):
            return found and (names.index(found[0]), names.index(found[1])), by_names
        places = [None if n is None else _place(names, n, are_names) for n in self._wanted]
        for side in (0, 1):
            other = places[1 - side]
            if self._wanted[side] is None and len(names) == 2 and other is not None:
                places[side] = 1 - other
            elif self._wanted[side] is None and found is not None:
                places[side] = names.index(found[side])
        source, target = places
        if source is None or target is None or source == target:
            flags = zip(("source", "target"), self._wanted, strict=True)
            shown = " ".join(f"--{side}_column {name!r:.40}" for side, name in flags if name)
            raise InputError(f"{shown}: no such two columns. {self.no_columns(where, names)}")
        return (source, target), "as the flags say"

    def _is_header(self, fields: Sequence[str]) -> bool:
        """Whether these are names of columns; twice one language is a pair of a dictionary."""
        run = {*self._bases}
        languages = [language_of(name, *self.languages) for name in fields]
        if None in languages and all(map(is_name, fields)):
            languages = [language_of(name, *run, everywhere=True) for name in fields]
        if len({*languages} - {None}) > 1:
            return True
        # Else all must be plain words, and one of them a role or a language of the run.
        if None not in languages or not all(_NAME.fullmatch(_plain(name)) for name in fields):
            return False
        return not run.isdisjoint(languages) or any(
            _role(name) or _plain(name) == "translation" for name in fields
        )

    def _target_is_first_by_name(self, names: Sequence[str]) -> bool | None:
        """What the parts in which two names of files differ say; None if they say nothing."""
        for separator in ("[.]", r"[\W_]+"):
            words = [Counter(re.split(separator, name)) for name in names]
            first, second = list(words[0] - words[1]), list(words[1] - words[0])
            found = self.find([*first, *second])
            if found is not None and {found[0] in first, found[1] in first} == {True, False}:
                return found[1] in first
            named = [[word for word in side if language_of(word)] for side in (first, second)]
            if all(named):
                raise self.no_columns(" and ".join(names), [*named[0], *named[1]])
        return None

    def _order(self, rows: Sequence[Sequence[str]]) -> tuple[bool, str]:
        """Whether the target stands first, as far as the text tells, and how that is told."""
        source, target = map(letters_of, self.languages)
        sides = [(row[0][:_LONGEST], row[1][:_LONGEST]) for row in rows if len(row) > 1]
        if source and target and source != target:
            leans = [[_lean(t, source - target, target - source) for t in row] for row in sides]
            first, second = sum(a > b for a, b in leans), sum(a < b for a, b in leans)
            if max(first, second) > 2 * min(first, second):
                return first > second, "by their scripts"
        if rows and _is_attributed(rows[0]) and "en" in self._bases:
            return self._bases[1] == "en", "as English stands first in Tatoeba's files"
        if source == target == {"LATIN"} and "en" in self._bases:
            plain = [[_is_plain(text) for text in row] for row in sides]
            first, second = plain.count([False, True]), plain.count([True, False])
            most = max(first, second)
            enough = max(_LEAST_ACCENTS, _LEAST_SHARE_OF_ACCENTS * len(sides))
            if most >= enough and most > 2 * min(first, second):
                return (first > second) == (self._bases[0] == "en"), "as English has few accents"
        if self.told:
            return self.told[-1].target_is_first, "in the order of the file before"
        return False, (
            "in this order, as nothing tells: --source_column 2 --target_column 1 turns them round"
        )

    def _tell(self, where: str, sides: Sequence[str], how: str, target_is_first: bool) -> None:
        place = re.sub(r":( [a-z]+ )?\d+$", "", where) + ": " if where else ""
        line = f"{place}source: {sides[0]}, target: {sides[1]}, {how}"
        self.told.append(Told(target_is_first, line))


def lines_on_sides(told: Sequence[Told]) -> list[str]:
    """For the user: how the sides of each file were told apart; of many files the first."""
    more = len(told) - _MOST_LINES
    return [*map(str, told[:_MOST_LINES]), *([f"and {more} more files"] if more > 0 else [])]


def shorten(text: str | None, length: int = 79) -> str:
    """A text in quotation marks; of a long one the beginning, with three dots."""
    return repr(f"{text[: length - 3]} ..." if text and len(text) > length else text)


# --- names ---------------------------------------------------------------------------------------


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def _core(name: str) -> str:
    """A name of a column without words such as `text`: `sentence_eng_Latn` as `eng_Latn`."""
    if _MARK.search(name):  # a sentence
        return name
    words = _WORD.findall(re.sub("(?<=[a-z])(?=[A-Z])", " ", name))
    return "_".join([word for word in words if word.lower() not in _FILLERS] or words)


def _role(name: str) -> str | None:
    return _ROLES.get(_core(name).lower())


def _language(name: str, *speakers: str, everywhere: bool = False) -> str | None:
    """The language that a column is named after."""
    found = language_of(name, *speakers, everywhere=everywhere)
    return found or language_of(_core(name), *speakers)


def _language_column(names: Sequence[str], lang: str, other: str) -> str | None:
    exact = [name for name in names if _plain(name) == _plain(lang)]
    close = (name for name in names if _language(name, lang, other) == base_language(lang))
    return _only(exact or close)


def _only(names: Iterable[str]) -> str | None:
    """The one name that there is; None of several."""
    found = list(names)
    return found[0] if len(found) == 1 else None


def _place(names: Sequence[str], wanted: str, are_names: bool) -> int | None:
    """The place of a column that is called so, or that has this number from 1."""
    for form in (str.strip, _plain) if are_names else ():
        for place, name in enumerate(names):
            if form(name) == form(wanted):
                return place
    numbers = [str(place) for place in range(1, len(names) + 1)]
    return numbers.index(wanted.strip()) if wanted.strip() in numbers else None


# --- text ----------------------------------------------------------------------------------------


def _is_attributed(fields: Sequence[str]) -> bool:
    """Tatoeba's export: two sentences and whom to thank for them."""
    return len(fields) == 3 and bool(re.search("attribution|^cc-by", fields[2], re.IGNORECASE))


def _lean(text: str, source: frozenset[str], target: frozenset[str]) -> float:
    """From -1, all letters of a text are of the source's scripts alone, to 1, of the target's."""
    letters = [script for script in map(letter_script, text) if script]
    return sum((s in target) - (s in source) for s in letters) / max(1, len(letters))


def _is_plain(text: str) -> bool:
    return all(char.isascii() or not char.isalpha() for char in text)
