"""Which documents are known, by the ends of their names."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from .catalogs import read_catalog, read_json_strings
from .markup import read_html, read_markdown
from .segments import Segment, translate_segments
from .subtitles import read_subtitles

FORMATS: dict[str, Callable[[str], list[Segment]]] = {
    ".srt": read_subtitles,
    ".vtt": read_subtitles,
    ".po": read_catalog,
    ".json": read_json_strings,
    ".md": read_markdown,
    ".html": read_html,
    ".htm": read_html,
}


def is_document(name: str | Path) -> bool:
    """Whether a file holds more than plain text.

    Raises:
        InputError: by its name it is of a kind that is not known.
    """
    suffix = Path(name).suffix.lower()
    if suffix not in (*FORMATS, "", ".txt"):
        raise InputError(
            f"{name}: documents of the kind {suffix} are not known; these are: "
            f"{', '.join(FORMATS)}, .txt. Plain text of another name: translate < FILE"
        )
    return suffix in FORMATS


def translate_document(name: str | Path, text: str, translate: Callable[[str], str]) -> str:
    """Translate a document and keep what is not text: layout, times, tags, keys, placeholders.

    The end of its `name` says what it is. `translate` must keep line breaks and all marks.

    Raises:
        InputError: the document is damaged or of a kind that is not known.
    """
    if not is_document(name):
        return translate(text)
    mark = "\ufeff" * text.startswith("\ufeff")
    try:
        segments = FORMATS[Path(name).suffix.lower()](text.removeprefix(mark))
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return mark + translate_segments(segments, translate)
