"""A translator whose translations are easy to tell: capitals, marks as they are."""

from __future__ import annotations

import re

from bahdanau_hf.documents.formats import translate_document
from bahdanau_hf.documents.segments import MARK


def shout(text: str) -> str:
    parts = re.split(f"({MARK})", text)
    return "".join(part if i % 2 else part.upper() for i, part in enumerate(parts))


def shouted(name: str, text: str) -> str:
    return translate_document(name, text, shout)
