"""Which column of a table, and which of two aligned files, holds the source and which the target.

Asked in turn: what the user says (`source_column`, `target_column`: a name, or a number from 1),
the header, the names of the files, the script of the text, and the order of Tatoeba's files. Where
nothing tells, the source is taken to stand first. The list `told` receives how each was told, for
the user to see. The readers hand over names and first rows; nothing here opens a file.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
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
_MOST_NAMES = 10  # in a message
_LONGEST = 500  # characters of a text that are looked at
# Letters beyond ASCII tell another language of Latin script from English, which has few of them,
# if so many rows speak for it.
_LEAST_ACCENTS, _LEAST_SHARE_OF_ACCENTS = 2, 0.05


class Columns(NamedTuple):
    """The places of source and target in a row, and whether the first row names the columns."""

    source: int
    target: int
    has_header: bool


class NoColumns(InputError):
    """Nothing in a file tells which columns to take; `fact` is the message without its advice."""

    def __init__(self, fact: str, advice: str) -> None:
        super().__init__(f"{fact}. {advice}")
        self.fact = fact


class Told(NamedTuple):
    """How sides were told apart: whether the target stands first, and a line that says it."""

    target_is_first: bool
    line: str


def table_columns(
    where: str,
    head: Sequence[Sequence[str]],
    source_lang: str,
    target_lang: str,
    *,
    source_column: str | None = None,
    target_column: str | None = None,
    told: list[Told] | None = None,
) -> Columns:
    """The columns of a table without names of its own, whose first rows are `head`.

    Raises:
        InputError: the first row names other languages, or nothing tells which columns to take.
    """
    names, languages = head[0], (source_lang, target_lang)
    told = [] if told is None else told
    found = find_columns(names, *languages)
    has_header = found is not None or _is_header(names, *languages)
    if source_column or target_column:
        wanted = (source_column, target_column)
        has_header |= any(
            _plain(w) in map(_plain, names) for w in wanted if w and not w.isdecimal()
        )
        source, target = _wanted_places(where, names, languages, wanted, are_names=has_header)
        how = "as the flags say"
    elif found is not None:
        source, target = map(names.index, found)
        how = "by the header"
    elif has_header or not (len(names) == 2 or _is_attributed(names)):
        raise no_columns(where, names, *languages)
    else:
        swapped, how = _order(head, *languages, told, attributed=len(names) == 3)
        source, target = (1, 0) if swapped else (0, 1)
    shown = [f"column {place + 1}" for place in (source, target)]
    if has_header:
        shown = [f"column {names[place]!r:.40}" for place in (source, target)]
    told.append(_told(where, shown, how, source > target))
    return Columns(source, target, has_header)


def named_columns(
    where: str,
    names: Sequence[str],
    source_lang: str,
    target_lang: str,
    *,
    source_column: str | None = None,
    target_column: str | None = None,
    told: list[Told] | None = None,
) -> tuple[str, str]:
    """The names of source and target among those of a record.

    Raises:
        InputError: nothing tells.
    """
    found, how = find_columns(names, source_lang, target_lang), "by the names"
    if source_column or target_column:
        wanted, languages = (source_column, target_column), (source_lang, target_lang)
        source, target = _wanted_places(where, names, languages, wanted)
        found, how = (names[source], names[target]), "as the flags say"
    if found is None:
        raise no_columns(where, names, source_lang, target_lang)
    if told is not None:
        shown = [f"column {name!r:.40}" for name in found]
        swapped = names.index(found[0]) > names.index(found[1])
        told.append(_told(where, shown, how, swapped))
    return found


def target_is_first(
    names: Sequence[str],
    head: Sequence[Sequence[str]],
    source_lang: str,
    target_lang: str,
    *,
    source_column: str | None = None,
    target_column: str | None = None,
    told: list[Told] | None = None,
) -> bool:
    """Whether the first of two aligned files, of these names and first lines, is the target.

    Of the flags only numbers matter: such files have no names of columns.

    Raises:
        InputError: the names of the files name other languages.
    """
    told = [] if told is None else told
    numbers = (source_column or "", target_column or "")
    if any(number.isdecimal() for number in numbers):
        if numbers not in (("1", ""), ("", "2"), ("1", "2"), ("2", ""), ("", "1"), ("2", "1")):
            raise InputError(
                f"{' and '.join(names)}: --source_column and --target_column can be 1 and 2, the "
                "number of the file"
            )
        swapped, how = numbers[0] == "2" or numbers[1] == "1", "as the flags say"
    elif (by_name := _target_is_first_by_name(names, source_lang, target_lang)) is not None:
        swapped, how = by_name, "by the names of the files"
    else:
        swapped, how = _order(head, source_lang, target_lang, told)
    told.append(_told("", names[::-1] if swapped else names, how, swapped))
    return swapped


def find_columns(
    names: Sequence[str], source_lang: str, target_lang: str
) -> tuple[str, str] | None:
    """Which two of `names` hold the source and the target, or None.

    Tried in turn: the language codes themselves, their names or variants (`zh-CN`, `Chinese`,
    `sentence_eng_Latn`), `non_english` for what is not English, `translation` beside the source,
    `source` and `target`. A name that fits twice does not count.
    """
    source = _language_column(names, source_lang, target_lang)
    target = _language_column(names, target_lang, source_lang)
    other = [name for name in names if _plain(name) in ("non-english", "nonenglish")]
    if len(other) == 1:
        if target is None and base_language(source_lang) == "en":
            target = other[0]
        if source is None and base_language(target_lang) == "en":
            source = other[0]
    if source is not None and target is not None and source != target:
        return source, target
    roles = [[name for name in names if _role(name) == role] for role in ("source", "target")]
    if [len(found) for found in roles] == [1, 1]:
        return roles[0][0], roles[1][0]
    first = [source] if source is not None else roles[0]
    translations = [name for name in names if _plain(name) == "translation"]
    if len(first) == 1 and len(translations) == 1 and target is None and not roles[1]:
        return first[0], translations[0]
    return None


def no_columns(where: str, names: Iterable[str], source_lang: str, target_lang: str) -> NoColumns:
    """The error for a table in which `find_columns` finds nothing."""
    names = list(names)
    shown = [repr(name if len(name) < 40 else name[:36] + " ...") for name in names]
    more = len(shown) - _MOST_NAMES
    found = ", ".join(shown[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
    run = (base_language(source_lang), base_language(target_lang))
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
    return NoColumns(
        f"{where}: no columns for {source_lang} and {target_lang}; it has: {found}", advice
    )


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
    close = [name for name in names if _language(name, lang, other) == base_language(lang)]
    found = exact or close
    return found[0] if len(found) == 1 else None


def _wanted_places(
    where: str,
    names: Sequence[str],
    languages: tuple[str, str],
    wanted: Sequence[str | None],
    *,
    are_names: bool = True,
) -> tuple[int, int]:
    """The places of source and target, of which the flags name one or both.

    A number is a place first where `names` are sentences.
    """
    found = find_columns(names, *languages)
    places = [None if name is None else _place(names, name, are_names) for name in wanted]
    for side in (0, 1):
        other = places[1 - side]
        if wanted[side] is None and len(names) == 2 and other is not None:
            places[side] = 1 - other
        elif wanted[side] is None and found is not None:
            places[side] = names.index(found[side])
    source, target = places
    if source is None or target is None or source == target:
        flags = zip(("source", "target"), wanted, strict=True)
        shown = " ".join(f"--{side}_column {name!r:.40}" for side, name in flags if name)
        raise InputError(f"{shown}: no such two columns. {no_columns(where, names, *languages)}")
    return source, target


def _place(names: Sequence[str], wanted: str, are_names: bool) -> int | None:
    """The place of a column that is called so, or that has this number from 1."""
    for form in (str.strip, _plain) if are_names else ():
        for place, name in enumerate(names):
            if form(name) == form(wanted):
                return place
    numbers = [str(place) for place in range(1, len(names) + 1)]
    return numbers.index(wanted.strip()) if wanted.strip() in numbers else None


def _is_header(fields: Sequence[str], source_lang: str, target_lang: str) -> bool:
    """Whether these are names of columns.

    They are if two of them name different languages, or if all are plain words and one is a role
    or a language of the run. Names of one and the same language are a pair of a dictionary.
    """
    run = {base_language(source_lang), base_language(target_lang)}
    languages = [language_of(field, source_lang, target_lang) for field in fields]
    if None in languages and all(map(is_name, fields)):
        languages = [language_of(field, *run, everywhere=True) for field in fields]
    if len({*languages} - {None}) > 1:
        return True
    if None not in languages or not all(_NAME.fullmatch(_plain(field)) for field in fields):
        return False
    return any(lang in run for lang in languages) or any(
        _role(field) or _plain(field) == "translation" for field in fields
    )


def _target_is_first_by_name(names: Sequence[str], *languages: str) -> bool | None:
    """What the parts in which two names of files differ say; None if they say nothing.

    Raises:
        InputError: they name other languages than `languages`.
    """
    for separator in ("[.]", r"[\W_]+"):
        words = [Counter(re.split(separator, name)) for name in names]
        first, second = list(words[0] - words[1]), list(words[1] - words[0])
        found = find_columns([*first, *second], *languages)
        if found is not None and {found[0] in first, found[1] in first} == {True, False}:
            return found[1] in first
        named = [[word for word in side if language_of(word)] for side in (first, second)]
        if all(named):
            raise no_columns(" and ".join(names), [*named[0], *named[1]], *languages)
    return None


# --- text ----------------------------------------------------------------------------------------


def _is_attributed(fields: Sequence[str]) -> bool:
    """Tatoeba's export: two sentences and whom to thank for them."""
    return len(fields) == 3 and bool(re.search("attribution|^cc-by", fields[2], re.IGNORECASE))


def _order(
    rows: Sequence[Sequence[str]],
    source_lang: str,
    target_lang: str,
    told: Sequence[Told],
    *,
    attributed: bool = False,
) -> tuple[bool, str]:
    """Whether the target stands first, as far as the text tells, and how that is told."""
    languages = (base_language(source_lang), base_language(target_lang))
    source, target = letters_of(source_lang), letters_of(target_lang)
    sides = [(row[0][:_LONGEST], row[1][:_LONGEST]) for row in rows if len(row) > 1]
    if source and target and source != target:
        votes = [_vote(a, b, source - target, target - source) for a, b in sides]
        first, second = votes.count(-1), votes.count(1)
        if max(first, second) > 2 * min(first, second):
            return first > second, "by their scripts"
    if attributed and "en" in languages:
        return languages[1] == "en", "as English stands first in Tatoeba's files"
    if source == target == {"LATIN"} and "en" in languages:
        first, second = (sum(_has_accents(row[i], row[1 - i]) for row in sides) for i in (0, 1))
        most = max(first, second)
        enough = max(_LEAST_ACCENTS, _LEAST_SHARE_OF_ACCENTS * len(sides))
        if most >= enough and most > 2 * min(first, second):
            return (first > second) == (languages[0] == "en"), "as English has few accents"
    if told:
        return told[-1].target_is_first, "in the order of the file before"
    return False, (
        "in this order, as nothing tells: --source_column 2 --target_column 1 turns them round"
    )


def _vote(first: str, second: str, source: frozenset[str], target: frozenset[str]) -> int:
    """1 if the second text holds more of the target's letters, -1 if the first does, else 0."""
    shares = []
    for text in (first, second):
        found = [letter_script(char) for char in text]
        letters = [script for script in found if script]
        balance = sum((s in target) - (s in source) for s in letters)
        shares.append(balance / max(1, len(letters)))
    return (shares[1] > shares[0]) - (shares[1] < shares[0])


def _has_accents(text: str, other: str) -> bool:
    """Whether a text has letters beyond ASCII and the other none."""
    return not _is_plain(text) and _is_plain(other)


def _is_plain(text: str) -> bool:
    return all(char.isascii() or not char.isalpha() for char in text)


def _told(where: str, sides: Sequence[str], how: str, target_is_first: bool) -> Told:
    place = re.sub(r":( [a-z]+ )?\d+$", "", where) + ": " if where else ""
    return Told(target_is_first, f"{place}source: {sides[0]}, target: {sides[1]}, {how}")
