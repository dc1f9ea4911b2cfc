"""Text and bytes that nobody expects, made from a random number generator alone."""

from __future__ import annotations

from random import Random

# Ranges of characters, each with its own way of going wrong.
_RANGES = (
    (0x20, 0x7E),  # ASCII
    (0x00, 0x1F),  # controls
    (0x7F, 0xA0),  # more of them, NEL among them
    (0xC0, 0x17F),  # Latin with marks
    (0x300, 0x36F),  # combining marks
    (0x590, 0x5FF),  # Hebrew
    (0x600, 0x6FF),  # Arabic
    (0x900, 0x97F),  # Devanagari
    (0xE00, 0xE7F),  # Thai
    (0x1100, 0x11FF),  # parts of Hangul
    (0x2000, 0x206F),  # spaces, zero-width and direction marks, line and paragraph separators
    (0x3000, 0x30FF),  # ideographic space, kana
    (0x4E00, 0x9FFF),  # Han
    (0xAC00, 0xD7A3),  # Hangul
    (0xE000, 0xE0FF),  # private use
    (0xFB00, 0xFDFF),  # ligatures, Arabic forms
    (0xFE00, 0xFE0F),  # variation selectors
    (0xFF00, 0xFFFF),  # full width, specials, non-characters
    (0x1D100, 0x1D1FF),  # music: decomposes into characters beyond the first plane
    (0x1F1E6, 0x1F1FF),  # flags
    (0x1F300, 0x1F6FF),  # emoji
    (0x20000, 0x2A6DF),  # rare Han
    (0xE0000, 0xE007F),  # tags
    (0x10FF00, 0x10FFFF),  # the last there are
)
_PIECES = (
    *("", " ", "  ", "\t", "\r", "\n", "\r\n", "\v", "\f", "\x1c", "\x85", "\u2028", "\u2029"),
    *("\u200b", "\u200d", "\u200e", "\u202e", "\u2066", "\ufeff", "\xad", "\u034f", "\xa0"),
    *("Call us.", "I know", "don't", "we'll", "U.S.A.", "3.14", "-1", "NaN", "null", "None"),
    *("联系我们。", "我知道", "他跑", "聯繫", "“引”", "饕餮", "が", "か\u3099"),
    *("👩‍👩‍👧", "🏳️‍🌈", "👍🏽", "🇨🇳", "e\u0301\u0323", "\u1e9e", "İ", "ﬁ", "ς", "ß", "Å", "क्षि"),
    *("<eos>", "<pad>", "<bos>", "<unk>", "<0x0A>", "<s>", "</s>", "[CLS]", "##", "▁", "Ġ"),
    *("<script>alert(1)</script>", "&amp;", '"', "'", "\\", "%s", "{0}", "$(id)", "`id`", "../"),
    *("=1+1", "en", "zh", "source", "target", "translation", ",", ",,", '""', '"\n"', "\t\t"),
)
# What is not UTF-8, or is not what it seems.
_BYTES = (
    *(b"\0", b"\xff", b"\xfe", b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf", b"\xc3", b"\xe4\xbd"),
    *(
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xf5\x80\x80\x80",
        b"\x80",
        b"\x1f\x8b",
        b"PAR1",
        b"\r",
        b"\n",
    ),
    *(b"\t", b",", b'"', b"{", b"}", b"[", b"]", b":", b"\\ud800", b"\\", b"null", b"1e999"),
)


def text(random: Random, *, surrogates: bool = False) -> str:
    """A text of up to about forty pieces; most are short, some repeat one piece many times."""
    parts = []
    for _ in range(random.choice((0, 1, 1, 2, 3, 5, 8, 13, 40))):
        way = random.random()
        if way < 0.5:
            parts.append(random.choice(_PIECES))
        elif way < 0.97:
            low, high = random.choice(_RANGES)
            parts.append(
                "".join(chr(random.randint(low, high)) for _ in range(random.randint(1, 4)))
            )
        else:
            parts.append(random.choice(_PIECES) * random.choice((3, 30, 300)))
        if surrogates and random.random() < 0.05:
            parts.append(chr(random.randint(0xD800, 0xDFFF)))
        if random.random() < 0.5:
            parts.append(" ")
    return "".join(parts)


def damaged(random: Random, content: bytes) -> bytes:
    """The content after one to four accidents: bytes flipped, cut, doubled, moved or put in."""
    result = bytearray(content)
    for _ in range(random.randint(1, 4)):
        at = random.randint(0, len(result))
        end = min(len(result), at + random.choice((1, 1, 2, 7, 50, 10_000)))
        way = random.randrange(6)
        if way == 0 and at < len(result):
            result[at] ^= 1 << random.randrange(8)
        elif way == 1:
            del result[at:]
        elif way == 2:
            del result[at:end]
        elif way == 3:
            result[at:at] = result[at:end]
        elif way == 4:
            result[at:at] = random.choice(_BYTES)
        else:
            result[at:at] = random.randbytes(random.choice((1, 3, 20)))
    return bytes(result)
