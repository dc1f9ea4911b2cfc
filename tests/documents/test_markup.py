"""HTML and Markdown: texts change, mark-up does not."""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from importlib.util import find_spec

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf import InputError
from bahdanau_hf.documents.formats import translate_document


def shouted(name: str, text: str) -> str:
    return translate_document(name, text, str.upper)


needs_markdown = pytest.mark.skipif(
    find_spec("markdown_it") is None, reason="the extra [documents] is not installed"
)
HTML_CASES = [
    ("<p>one</p>", "<p>ONE</p>"),
    (
        "<!DOCTYPE html>\r\n<p>\r\n  one\r\n  two\r\n</p>\r\n",
        "<!DOCTYPE html>\r\n<p>\r\n  ONE TWO\r\n</p>\r\n",
    ),
    ("\ufeff<title>a</title>", "\ufeff<title>A</title>"),
    ("<p title=\"a > b\" data-x='<i>'>go</p>", "<p title=\"a > b\" data-x='<i>'>GO</p>"),
    ("<p>so <b class=x>it</b> goes</p>", "<p>SO <b class=x>IT</b> GOES</p>"),
    ("<p><b>all</b></p>", "<p><b>ALL</b></p>"),
    ("<p>run <code>ls -l</code> now</p>", "<p>RUN <code>ls -l</code> NOW</p>"),
    ("<pre>a <b>b</b>\n</pre>c", "<pre>a <b>b</b>\n</pre>C"),
    ("<script>if (a < b) c('</p>')</script>d", "<script>if (a < b) c('</p>')</script>D"),
    ("<STYLE>p > a {}</STYLE >d", "<STYLE>p > a {}</STYLE >D"),
    ("<code-block>text</code-block>", "<code-block>TEXT</code-block>"),
    ("<svg/>text", "<svg/>TEXT"),
    ("<!-- a <p> b -->c<!-- d", "<!-- a <p> b -->C<!-- d"),
    ("<p>a<br>b</p>", "<p>A<br>B</p>"),
    ("<p>salt &amp; pepper &lt;3 &copy; x</p>", "<p>SALT &amp; PEPPER &lt;3 © X</p>"),
    ("<p>a&nbsp;b</p>", "<p>A B</p>"),
    ("<p>1 &lt; 2 &nbsp;</p>", "<p>1 &lt; 2 &nbsp;</p>"),
    ("a < b & c", "A &lt; B &amp; C"),
    ("<p>hi {{ user.name }}, %s</p>", "<p>HI {{ user.name }}, %s</p>"),
    ("<ul><li>a<ul><li>b</ul></ul>", "<ul><li>A<ul><li>B</ul></ul>"),
    ("<?php echo 1 ?>a<![CDATA[b]]>", "<?php echo 1 ?>A<![CDATA[b]]>"),
    ("no tags", "NO TAGS"),
    ("<p>a</p", "<p>A&lt;/P"),
    ("", ""),
]
MARKDOWN_CASES = [
    ("one\ntwo\n", "ONE TWO\n"),
    ("one  \ntwo\\\nthree\n", "ONE  \nTWO\\\nTHREE\n"),
    ("# head #\n\ntext\n", "# HEAD #\n\nTEXT\n"),
    ("head\n====\n\nother\n-----\n", "HEAD\n====\n\nOTHER\n-----\n"),
    ("---\ntitle: a\n---\n\ntext\n", "---\ntitle: a\n---\n\nTEXT\n"),
    ("\ufeff---\r\nt: a\r\n---\r\ntext\r\n", "\ufeff---\r\nt: a\r\n---\r\nTEXT\r\n"),
    ("text\n\n---\n\ntext\n", "TEXT\n\n---\n\nTEXT\n"),
    ("```sh\nls\n```\ntext\n", "```sh\nls\n```\nTEXT\n"),
    ("~~~~\n~~~\na\n~~~~\n\n    code\n\ntext", "~~~~\n~~~\na\n~~~~\n\n    code\n\nTEXT"),
    ("```\nnever closed\n", "```\nnever closed\n"),
    ("- a\n  b\n- c\n\n  d\n\n      code\n", "- A B\n- C\n\n  D\n\n      code\n"),
    ("1. a\n   - b\n     1) c\n", "1. A\n   - B\n     1) C\n"),
    ("- ```\n  code\n  ```\n- a\n", "- ```\n  code\n  ```\n- A\n"),
    ("- [ ] a\n- [x] b\n", "- [ ] A\n- [x] B\n"),
    ("> a\n> b\n>\n> > c\n", "> A B\n>\n> > C\n"),
    ("> - a\nlazy\n", "> - A LAZY\n"),
    (
        "| a | b \\| c |\n|---|:-:|\n| `d|e` | f |\n|x|\n",
        "| A | B \\| C |\n|---|:-:|\n| `D|E` | f |\n|X|\n",
    ),
    ("a | a\n--|--\na | a\n\ntext\n", "A | A\n--|--\nA | A\n\nTEXT\n"),
    ("run `ls -l` or ``a`b`` now\n", "RUN `ls -l` OR ``a`b`` NOW\n"),
    (
        'see [the page](http://a.b/c_(d) "title") now\n',
        'SEE [THE PAGE](http://a.b/c_(d) "title") NOW\n',
    ),
    ("![alt](a.png) text <http://x.y> text\n", "![ALT](a.png) TEXT <http://x.y> TEXT\n"),
    (
        "[a][ref] [ref] [ref][] [other]\n\n[ref]: http://x.y 'title'\n",
        "[A][ref] [ref] [ref][] [OTHER]\n\n[ref]: http://x.y 'title'\n",
    ),
    ("a[^1]\n\n[^1]: the note\n", "A[^1]\n\n[^1]: THE NOTE\n"),
    ("so **it** _goes_ ~~on~~ 2 * 3 snake_case\n", "SO **IT** _GOES_ ~~ON~~ 2 * 3 SNAKE_CASE\n"),
    ("a \\* b &amp; c \\\\ d\n", "A \\* B &amp; C \\\\ D\n"),
    ("a <b title='x'>b</b> c<br>d\n", "A <b title='x'>B</b> C<br>D\n"),
    (
        '<div align="center">\n  <b>a</b>\n</div>\n\nb\n',
        '<div align="center">\n  <b>A</b>\n</div>\n\nB\n',
    ),
    ("<!-- a\n\nb -->\n\nc\n", "<!-- a\n\nb -->\n\nC\n"),
    ("!!! note\n    a\n    b\n", "!!! note\n    A B\n"),
    (":::tip\na\n:::\n", ":::tip\nA\n:::\n"),
    ("$$\nx^2\n$$\n", "$$\nx^2\n$$\n"),
    ("\ttab code\n\n-\ta\n", "\ttab code\n\n-\tA\n"),
    (
        "# A heading\n<p align='x'>\n  <em>so</em> it\n</p>\n",
        "# A HEADING\n<p align='x'>\n  <em>SO</em> IT\n</p>\n",
    ),
    ("> <div>a</div>\n\nb\n", "> <div>a</div>\n\nB\n"),  # HTML in a quote is left alone
    ("a\x00b\n\nc\n", "a\x00b\n\nC\n"),
    ("a\rb\r\rc\r", "A B\r\rC\r"),
    ("a\r\nb\r\n\r\n- c\r\n", "A B\r\n\r\n- C\r\n"),
    ("no end", "NO END"),
    ("", ""),
]


@pytest.mark.parametrize(("text", "wanted"), HTML_CASES)
def test_html(text: str, wanted: str) -> None:
    assert shouted("a.html", text) == wanted
    assert translate_document("a.htm", text, str) == text


@needs_markdown
@pytest.mark.parametrize(("text", "wanted"), MARKDOWN_CASES)
def test_markdown(text: str, wanted: str) -> None:
    assert shouted("a.md", text) == wanted
    assert translate_document("a.md", text, str) == text


class Tags(HTMLParser):
    """What a browser would see beside text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[object] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, *attrs))

    def handle_endtag(self, tag: str) -> None:
        self.found.append(tag)

    def handle_comment(self, data: str) -> None:
        self.found.append(data)


_HTML_PARTS = [
    "<p>",
    "</p>",
    "<b class='a>b'>",
    "</b>",
    "<br/>",
    "one ",
    "two.",
    " \n",
    "&amp;",
    "&lt;",
    "1",
    *["<code>x y</code>", "<pre>\n a</pre>", "<!-- c -->", "<script>a<b</script>", "字", "{x}"],
]
HTML = st.lists(
    st.sampled_from(_HTML_PARTS),
    max_size=12,
).map("".join)


@given(HTML)
def test_tags_stay(text: str) -> None:
    assert translate_document("a.html", text, str) == text
    assert Tags(shouted("a.html", text)).found == Tags(text).found


_MD_PARTS = [
    "# ",
    "- ",
    "1. ",
    "> ",
    "    ",
    "  ",
    "a b",
    "c",
    "`d`",
    "```",
    "|",
    "|-|-|",
    "---",
    "*",
    "_",
    *[
        "[e](f)",
        "[g]: h",
        "<div>",
        "<!-- i -->",
        "\\",
        "\n",
        "\n",
        "\n\n",
        "\t",
        "!!! ",
        "\ue801",
        "**",
    ],
]
MARKDOWN = st.lists(
    st.sampled_from(_MD_PARTS),
    max_size=16,
).map("".join)


@needs_markdown
@given(MARKDOWN)
def test_blocks_stay(text: str) -> None:
    """The same kinds of blocks, one after the other, and the same code in them."""
    from markdown_it import MarkdownIt

    markdown = MarkdownIt("commonmark").enable("table")
    assert translate_document("a.md", text, str) == text

    def blocks(text: str) -> list[tuple[str, str]]:
        return [
            (token.type, token.content * (token.type in ("fence", "code_block")))
            for token in markdown.parse(text)
        ]

    assert blocks(shouted("a.md", text)) == blocks(text)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "markdown_it", None)
    with pytest.raises(InputError, match=r"bahdanau-hf\[documents\]"):
        shouted("a.md", "a")
