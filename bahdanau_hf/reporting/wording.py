"""What the pages say in English and in Chinese: one table, `words.tsv`, and who is shown which.

A page is written in English. Each of its texts carries the Chinese beside it, and `SPEAK`, the one
script of a page, shows that where the browser's language is Chinese. What is marked
`translate="no"` is said in no language: sentences, names of settings, numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader


def read_asset(name: str) -> str:
    """The text of a file that stands beside this one, or below."""
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


CHINESE = dict(line.split("\t") for line in read_asset("words.tsv").splitlines())
SPEAK = read_asset("pages/speak.js")


@dataclass(frozen=True)
class Text:
    """A text in both languages; without Chinese it is said in neither, such as a name."""

    en: str
    zh: str = ""

    def __html__(self) -> str:  # what a template shows
        return self.html()

    def html(self, tag: str = "span", **attributes: str) -> str:
        """An element that holds the text and nothing else; its class is named `kind`."""
        spoken = {"data-zh": self.zh} if self.zh else {"translate": "no"}
        named = {{"kind": "class"}.get(k, k): v for k, v in attributes.items()} | spoken
        inside = "".join(f' {name}="{escape(value)}"' for name, value in named.items())
        return f"<{tag}{inside}>{escape(self.en)}</{tag}>"


def text(said: str | Text, **values: Any) -> Text:
    """A text of the table in both languages, or what the table does not have as it is.

    Args:
        said: the English of the table.
        **values: what stands in the text's braces; texts are put there in each language.
    """
    if isinstance(said, Text):
        return said
    if said not in CHINESE:
        return Text(said)
    pairs = {k: v if isinstance(v, Text) else Text(str(v), str(v)) for k, v in values.items()}
    return Text(
        said.format_map({k: v.en for k, v in pairs.items()}),
        CHINESE[said].format_map({k: v.zh or v.en for k, v in pairs.items()}),
    )


def say(said: str, **values: Any) -> str:
    """A text of the table as HTML; arguments as those of `text`."""
    return text(said, **values).html()


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "pages"),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
_TEMPLATES.globals["text"] = text


def render(template: str, **values: Any) -> str:
    """A template of `pages/` as HTML: values are escaped, and texts stand in both languages."""
    return _TEMPLATES.get_template(template).render(values)
