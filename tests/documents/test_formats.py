"""Kinds of documents: which are known, and what is said of the others."""

from __future__ import annotations

import pytest

from bahdanau_hf import InputError
from bahdanau_hf.documents.formats import FORMATS, is_document, translate_document

MARKUP = "word <b>of</b> {name} & %s\n"


@pytest.mark.parametrize("name", ["-", "notes", "notes.txt", "a/b.d/NOTES.TXT"])
def test_plain_text(name: str) -> None:
    assert not is_document(name)
    assert translate_document(name, MARKUP, str.upper) == MARKUP.upper()


@pytest.mark.parametrize("suffix", [*FORMATS, ".SRT", ".Html"])
def test_documents(suffix: str) -> None:
    assert is_document(f"a.b{suffix}")


@pytest.mark.parametrize(
    "name",
    [
        "a.docx",
        "a.doc",
        "a.pdf",
        "a.odt",
        "a.xlsx",
        "a.epub",
        "a.PPTX",
        "a.csv",
        "a.xml",
        "a.srt.gz",
    ],
)
def test_others_are_refused_by_name(name: str) -> None:
    with pytest.raises(InputError) as caught:
        is_document(name)
    message = str(caught.value)
    assert name in message
    assert all(suffix in message for suffix in FORMATS)
    assert "\n" not in message
