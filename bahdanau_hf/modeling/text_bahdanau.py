"""Text between people and the model: cleaning it, and the tokens that it becomes; no tensors."""

import re
import unicodedata
from collections.abc import Sequence
from itertools import takewhile

SPECIAL_TOKENS = ("<pad>", "<bos>", "<eos>", "<unk>")
PAD_ID, BOS_ID, EOS_ID, UNK_ID = range(4)
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
NOT_TEXT = {*SPECIAL_TOKENS, *BYTE_TOKENS}
# URLs and e-mail addresses, without the mark behind them; what else is no language.
_ADDRESS = r"(?:https?://|ftp://|www\.)[!#-;=?-~\u00a1-\u024f]+(?<![.,:;!?)'])"
_ADDRESS += r"|(?a:(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+)"
ADDRESS = re.compile(_ADDRESS)
_CODE = (
    r"`[^`]+`|</?[A-Za-z][^<>]*>|[$%]?\{[^{}]*\}|(?<!\w)\w*[A-Za-z]_\w+|(?<!\S)--?\w[\w-]*(?!\S)"
    r"|(?<![\w.])[A-Za-z_][\w.]*(?:\([^()]*\)|::\w+|->\w+| ?[-+*/|&:=!<>]?=+ ?[\w.\"']+);?"
)
CODE = re.compile(rf"{_ADDRESS}|(?a:{_CODE})")
_INVISIBLE = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\xad\u200b\u2060\ufeff\ud800-\udfff]")
_BYTES = {token: byte for byte, token in enumerate(BYTE_TOKENS)}
_LONG = 1000  # characters


def clean_text(text: str) -> str:
    """Bring a sentence into the form that is compared, encoded and stored.

    Unicode NFC; control characters, soft hyphens, zero-width spaces, byte order marks and lone
    surrogates are removed; runs of any white space become one space; both ends are stripped.
    """
    if not (text.isascii() and text.isprintable()):
        text = _INVISIBLE.sub("", text)
        text = unicodedata.normalize("NFC", text if len(text) < _LONG else _in_order(text))
    return " ".join(text.split())


def _in_order(text: str) -> str:
    """The text decomposed, with its combining marks in the order of NFC.

    Python's own ordering takes time by the square of the marks in a row: hours for a long line.
    """
    ordered: list[str] = []
    marks: list[str] = []
    for char in "".join(unicodedata.normalize("NFD", char) for char in text):
        if unicodedata.combining(char):
            marks.append(char)
            continue
        ordered += sorted(marks, key=unicodedata.combining)
        marks.clear()
        ordered.append(char)
    return "".join(ordered + sorted(marks, key=unicodedata.combining))


def token_pieces(tokens: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Tokens as they are shown, with the places they come from: one, or a character's bytes."""
    pieces: list[tuple[str, list[int]]] = []
    i = 0
    while i < len(tokens):
        text, width = tokens[i].strip() or tokens[i], 1
        if tokens[i] in _BYTES:
            spelt = takewhile(_BYTES.__contains__, tokens[i : i + 4])
            text, width = _first_character(bytes(map(_BYTES.__getitem__, spelt)))
        pieces.append((text, list(range(i, i + width))))
        i += width
    return pieces


def _first_character(spelt: bytes) -> tuple[str, int]:
    """The character that these UTF-8 bytes begin with, and how many of them it takes."""
    for width in range(1, len(spelt) + 1):
        try:
            return spelt[:width].decode(), width
        except UnicodeDecodeError:
            continue
    return "\N{REPLACEMENT CHARACTER}", 1
