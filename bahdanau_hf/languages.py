"""Languages by code and by name, as Unicode's CLDR has them, and how they are written."""

from __future__ import annotations

import re
import unicodedata
from difflib import get_close_matches
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from babel import Locale

EXAMPLES = {
    "en": [
        "Where is the station?",
        "It will snow tomorrow.",
        "My brother works in a hospital near the river.",
        "He drinks tea every morning.",
    ],
    "zh": ["车站在哪里？", "明天会下雪。", "我哥哥在河边的一家医院工作。", "他每天早上喝茶。"],
}
"""Sentences to try a model with; the quickstart translates them rightly."""

_CHINESE = frozenset({"zh", "yue", "wuu", "lzh"})
# Chinese apart: written without spaces between words. sacrebleu has no tokenizer for these that
# needs no further package (its ja-mecab does).
_UNSPACED = frozenset({"ja", "th", "lo", "km", "my"})
_MORE_NAMES = {
    **{"mandarin": "zh", "chinese simplified": "zh", "chinese traditional": "zh"},
    **{"farsi": "fa", "castilian": "es", "flemish": "nl"},
}
# Codes for what is no language; and `src`, which is a source far more often than Sardinian.
_NO_LANGUAGES = frozenset({"mul", "mis", "und", "zxx", "root", "src"})
_CODE = re.compile("[a-z]{2,3}([-_][a-z0-9]+)*", re.IGNORECASE)
_NAME = re.compile(r"[^\W\d_][^\d.!?;:，。！？]{1,39}")
# Scripts as the names of their letters in Unicode begin, where CLDR's English name does not.
_LETTERS = {
    **dict.fromkeys(["Hans", "Hant"], ("CJK",)),
    **{"Jpan": ("HIRAGANA", "KATAKANA", "CJK"), "Kore": ("HANGUL",)},
    **{"Beng": ("BENGALI",), "Orya": ("ORIYA",), "Cans": ("CANADIAN",)},
}

# Characters that are words by themselves, as ranges of a class for Python's `re`: Han with its
# extensions and compatibility forms; with kana, bopomofo, the iteration mark and zero.
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
CJK = f"\u3005-\u3007\u3040-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff{HAN}"
# The same, and the marks written among them, for the expressions of tokenizers.
CJK_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}"
CJK_MARKS = r"\x{3000}-\x{303F}\x{FF00}-\x{FFEF}"


@cache
def language_of(text: str, *speakers: str, everywhere: bool = False) -> str | None:
    """The language that a text names, as its shortest ISO 639 code; None if it names none.

    Known are codes with or without script and region (`en`, `deu`, `cmn`, `pt-BR`, `eng_Latn`),
    English names (`German`, `Chinese (Simplified)`) and the names in the languages of the codes
    `speakers`; `everywhere`, also every language's name in itself (`Deutsch`, `中文`), which the
    first time takes half a second.
    """
    text = unicodedata.normalize("NFKC", text).strip()
    if _CODE.fullmatch(text) and (code := _coded(text)):
        return code
    if not is_name(text):
        return None
    name = re.sub("[-_ ]+", " ", re.sub(r"\s*\(.*", "", text)).casefold()
    for names in map(_names_in, ("en", *map(base_language, speakers))):
        if name in names:
            return names[name]
    return _own_names().get(name) if everywhere else None


def probable_language(text: str) -> str | None:
    """The code that was probably meant by a text that names no language: `deutch`, `jp`."""
    from babel.core import get_global

    if len(text) == 2:  # a country's
        return get_global("likely_subtags").get(f"und_{text.upper()}", "").split("_")[0] or None
    names = _names_in("en") | _own_names()
    close = get_close_matches(text.casefold(), names, 1, 0.8) if len(text) > 3 else []
    return names[close[0]] if close else None


def is_name(text: str) -> bool:
    """Whether a text could be the name of a language: it is short, and no sentence."""
    return _NAME.fullmatch(unicodedata.normalize("NFKC", text).strip()) is not None


@cache
def base_language(code: str) -> str:
    """The code without region or script, the shortest one: `zh-Hans` and `cmn` give `zh`."""
    base = re.split("[-_]", code.strip().lower())[0]
    return _coded(base) or _names_in("en").get(base, base)


def is_chinese(code: str | None) -> bool:
    """Whether a code names Chinese, in any script, region or branch: `zh_TW`, `cmn`, `yue`."""
    return base_language(code or "") in _CHINESE


def has_spaces(code: str | None) -> bool:
    """Whether a language is written with spaces between words."""
    return not is_chinese(code) and base_language(code or "") not in _UNSPACED


def language_name(code: str, speaker: str = "en") -> str:
    """The name in a language, with the code where that says more: `Chinese (zh-Hans)`."""
    from babel import Locale

    language = language_of(code)
    if language is None:
        return code
    name = Locale(speaker).languages.get(language) or _english().languages[language]
    return name if code.strip().lower() == language else f"{name} ({code})"


@cache
def letters_of(code: str) -> frozenset[str]:
    """The scripts of a language, as the names of their letters in Unicode begin: `CYRILLIC`.

    Empty where that is not known.
    """
    from babel.core import get_global

    language = language_of(code)
    if language is None:
        return frozenset()
    subtags = [subtag.title() for subtag in re.split("[-_]", code)[1:]]
    script = next((subtag for subtag in subtags if subtag in _english().scripts), None)
    if script is None:
        likely = get_global("likely_subtags")
        regions = [f"{language}_{subtag.upper()}" for subtag in subtags]
        full = next((likely[tag] for tag in (*regions, language) if tag in likely), "")
        script = next((part for part in full.split("_") if part in _english().scripts), None)
    if script is None:
        return frozenset()
    return frozenset(_LETTERS.get(script) or [_english().scripts[script].upper().split()[0]])


@cache
def letter_script(char: str) -> str:
    """How the name of a letter begins, which is its script: `LATIN`, `CJK`; empty for others."""
    return unicodedata.name(char, "").split(" ")[0] if char.isalpha() else ""


# --- CLDR, as Babel brings it --------------------------------------------------------------------


@cache
def _english() -> Locale:
    from babel import Locale  # imported when it is first asked: commands answer at once without

    return Locale("en")


@cache
def _coded(code: str) -> str | None:
    """The language of a code, if all parts of it are known to CLDR."""
    from babel.core import get_global

    base, *subtags = re.split("[-_]", code.lower())
    base = get_global("language_aliases").get(base, base).split("_")[0]
    if base not in _english().languages or {base, code.lower()} & _NO_LANGUAGES:
        return None
    known = {*_english().territories, *get_global("territory_aliases"), *_english().scripts}
    is_known = all(
        len(tag) > 4 or tag[0].isdigit() or {tag.title(), tag.upper()} & known for tag in subtags
    )
    return base if is_known else None


@cache
def _names_in(speaker: str) -> dict[str, str]:
    """Codes by what languages are called in a language; empty if CLDR does not say."""
    from babel import Locale, UnknownLocaleError

    try:
        names = Locale(speaker).languages
    except (UnknownLocaleError, ValueError):
        return {}
    longest_first = sorted(names.items(), key=lambda item: -len(item[0]))
    codes = {name.casefold(): code.split("_")[0] for code, name in longest_first}
    codes = {name: code for name, code in codes.items() if code not in _NO_LANGUAGES}
    return codes | _MORE_NAMES if speaker == "en" else codes


@cache
def _own_names() -> dict[str, str]:
    """Codes by what languages are called in themselves."""
    from babel import Locale, localedata

    return {
        name.casefold(): speaker
        for speaker in localedata.locale_identifiers()
        if "_" not in speaker
        for code, name in Locale(speaker).languages.items()
        if code.split("_")[0] == speaker
    }
