"""Language codes: what they name, and which scripts those languages are written in."""

import re

CODE_NAMES = {"en": {"eng", "english"}, "zh": {"zho", "chi", "cmn", "chinese", "mandarin"}}
"""What English and Chinese are called besides their codes."""

EXAMPLES = {
    "en": [
        "Where is the station?",
        "It will rain tomorrow.",
        "My brother works in a hospital near the river.",
        "How much is this book?",
    ],
    "zh": ["车站在哪里？", "明天会下雨。", "我哥哥在河边的一家医院工作。", "这本书多少钱？"],
}
"""Sentences to try a model with."""

_NAMES = {
    **{"de": "German", "en": "English", "es": "Spanish", "fr": "French", "ja": "Japanese"},
    **{"ko": "Korean", "pt": "Portuguese", "ru": "Russian", "zh": "Chinese"},
}
_CHINESE = frozenset({"zh", "yue", "wuu", "lzh"})
# Chinese apart: written without spaces between words. sacrebleu has no tokenizer for these that
# needs no further package (its ja-mecab does).
_UNSPACED = frozenset({"ja", "jpn", "th", "tha", "lo", "lao", "km", "khm", "my", "mya"})

# Characters that are words by themselves, as ranges of a class for Python's `re`: Han with its
# extensions and compatibility forms; with kana, bopomofo, the iteration mark and zero.
HAN = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
CJK = f"\u3005-\u3007\u3040-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff{HAN}"
# The same, and the marks written among them, for the expressions of tokenizers.
CJK_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}"
CJK_MARKS = r"\x{3000}-\x{303F}\x{FF00}-\x{FFEF}"


def base_language(code: str) -> str:
    """The code without region or script, with `cmn` and the like as `zh`: `zh-Hans` gives `zh`."""
    base = re.split("[-_]", code.strip().lower())[0]
    return next((lang for lang, names in CODE_NAMES.items() if base in names), base)


def is_chinese(code: str | None) -> bool:
    """Whether a code names Chinese, in any script, region or branch: `zh_TW`, `cmn`, `yue`."""
    return base_language(code or "") in _CHINESE


def has_spaces(code: str | None) -> bool:
    """Whether a language is written with spaces between words."""
    return not is_chinese(code) and base_language(code or "") not in _UNSPACED


def language_name(code: str) -> str:
    """The English name, with the code where that says more: `Chinese (zh-Hans)`."""
    name = _NAMES.get(base_language(code))
    if name is None:
        return code
    return name if code.lower() in _NAMES else f"{name} ({code})"
