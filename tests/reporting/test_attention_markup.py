import html
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bahdanau_hf.alignment.record import Alignment
from bahdanau_hf.reporting.attention_markup import (
    ALIGNMENT_CSS,
    HOW_TO_READ,
    alignment_html,
    alignment_svg,
    alignment_text,
    display_width,
    visible,
)
from tests.helpers.small_alignment import ALIGNMENT, SOURCE, TARGET, WEIGHTS

SVG = "{http://www.w3.org/2000/svg}"
EVIL = ['<img src=x onerror="alert(1)">', "a&b'", "]]>", "\x1b[31m\x00", "\u202eabc", "\ud800"]


@pytest.fixture
def evil():
    weights = np.full((len(EVIL), len(EVIL)), 1 / len(EVIL))
    return Alignment(EVIL, EVIL[::-1], weights)


class _Table(HTMLParser):
    """Reads cells, and fails on tags that do not nest."""

    void = frozenset({"meta", "br"})

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.rows, self.heads, self.styles = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag not in self.void:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag == "td" and "style" in attrs:
            weight = float(re.fullmatch(r"--w:([\d.]+)", attrs["style"])[1])
            self.rows[-1].append((weight, attrs["title"], "hot" in (attrs.get("class") or "")))
        elif tag == "th":
            self.heads.append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "th" in self.open:
            self.heads[-1] += data


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("联系", "联系"),
        (" ", "␣"),
        ("", "∅"),
        ("▁us", "▁us"),
        ("a b", "a b"),
        ("\n", r"\u000a"),
        ("\x1b[2J", r"\u001b[2J"),
        ("\u202eabc", r"\u202eabc"),
        ("\ud800", r"\ud800"),
        ("\uffff", r"\uffff"),
        ("👩‍🚀", "👩‍🚀"),
    ],
)
def test_visible(token, shown):
    assert visible(token) == shown


@pytest.mark.parametrize(
    ("text", "width"),
    [("abc", 3), ("联系", 4), ("。", 2), ("é", 1), ("e\u0301", 1), ("ｋ", 2), ("", 0)],
)
def test_display_width(text, width):
    assert display_width(text) == width


class TestText:
    def test_known_picture(self):
        known = replace(ALIGNMENT, source="Call us", target="联系\x1b我们。")
        head = f"source: Call us\ntranslation: 联系\\u001b我们。\n{HOW_TO_READ}"
        assert alignment_text(known) == f"{head}{alignment_text(ALIGNMENT)[len(HOW_TO_READ) :]}"
        assert alignment_text(ALIGNMENT) == (
            f"{HOW_TO_READ} · is less than 0.05.\n\n"
            "      Call    us  <eos>\n"
            "  联  0.90  0.06      ·\n"
            "  系     ·  0.95      ·\n"
            "我们  0.50  0.25   0.25\n"
            "  。     ·     ·   1.00\n"
        )

    @settings(max_examples=50)
    @given(
        st.lists(st.text(max_size=6), min_size=1, max_size=5),
        st.lists(st.text(max_size=6), min_size=1, max_size=5),
    )
    def test_columns_stay_aligned_for_any_tokens(self, source, target):
        weights = np.full((len(target), len(source)), 1 / len(source))
        lines = alignment_text(Alignment(source, target, weights)).split("\n")[2:-1]
        assert len(lines) == len(target) + 1
        assert len({display_width(line) for line in lines[1:]}) == 1
        assert not any(ord(c) < 32 for line in lines for c in line)


class TestHtml:
    def test_cells_and_heads(self):
        table = _Table(alignment_html(ALIGNMENT))
        assert table.heads == SOURCE + TARGET
        rows = [row for row in table.rows if row]
        weights = np.array([[cell[0] for cell in row] for row in rows])
        np.testing.assert_allclose(weights, WEIGHTS, atol=5e-4)
        assert rows[0][0][1] == "联 ← Call: 0.90"
        assert rows[3][2][1] == "。 ← <eos>: 1.00"
        assert [[cell[2] for cell in row] for row in rows] == (WEIGHTS >= 0.62).tolist()

    def test_everything_is_escaped(self, evil):
        page = alignment_html(evil, standalone=True, title="</title><script>")
        table = _Table(page)
        allowed = [
            "html",
            "head",
            "meta",
            "title",
            "style",
            "body",
            "div",
            "h3",
            "table",
            "thead",
            "tbody",
            "tr",
            "td",
            "th",
            "span",
            "br",
            "p",
            "i",
            "script",
        ]
        assert {tag for tag, _ in table.tags} == set(allowed)
        assert {name for _, attrs in table.tags for name in attrs} <= {
            "lang", "charset", "name", "http-equiv", "content", "class", "scope", "style", "title",
            "translate", "data-zh",
        }  # fmt: skip
        assert table.heads == [visible(token) for token in [*EVIL, *EVIL[::-1]]]
        assert "\x1b" not in page
        assert "\u202e" not in page
        page.encode("utf-8")

    def test_standalone_is_the_fragment_in_a_page_that_needs_no_network(self):
        page = alignment_html(ALIGNMENT, standalone=True, title="地图 <1>")
        assert alignment_html(ALIGNMENT, title="地图 <1>") in page
        assert page.startswith("<!DOCTYPE html>")
        assert ALIGNMENT_CSS in page
        assert '<title translate="no">地图 &lt;1&gt;</title>' in page
        assert not re.search(r"https?:|url\(|@import|src=|href=", page)

    def test_words_are_turned_and_chinese_stays_upright(self):
        tokens = ["of", "a", "汉", "汉字", "汉字们"]
        markup = alignment_html(Alignment(tokens, ["x"], [[0.2] * 5]))
        for token in ("of", "a"):
            assert f'<span class="turned">{token}</span>' in markup
        for token in ("汉", "汉字", "汉字们"):
            assert f'<span class="stacked">{token}</span>' in markup
        tokens = ["a", "汉", "汉字"]  # all of them fit as they are
        markup = alignment_html(Alignment(tokens, ["x"], [[0.25, 0.25, 0.5]]))
        for token in tokens:
            assert f'<span class="upright">{token}</span>' in markup

    def test_it_says_what_it_is_of_and_how_it_is_read(self):
        known = replace(ALIGNMENT, source="Call <us>", target="联系")
        markup = alignment_html(known, reference="打 & 电话")
        for name, text in (
            ("source", "Call &lt;us&gt;"),
            ("translation", "联系"),
            ("reference", "打 &amp; 电话"),
        ):
            assert re.search(rf">{name}</span> <span translate=\"no\">{text}</span></p>", markup)
        assert HOW_TO_READ in markup
        steps = re.findall(r'<i style="--w:([\d.]+)"', markup)
        assert steps == ["0.0", "0.25", "0.5", "0.75", "1.0"]


class TestSvg:
    @staticmethod
    def cells(root):
        """(x, y, weight, tool tip) of each cell."""
        found = []
        for group in root.iter(f"{SVG}g"):
            box = group.find(f"{SVG}rect[@class='weight']")
            found.append(
                (
                    float(box.get("x")) + float(box.get("width")) / 2,
                    float(box.get("y")) + float(box.get("height")) / 2,
                    float(box.get("fill-opacity")),
                    group.find(f"{SVG}title").text,
                )
            )
        return found

    def test_cells_stand_under_their_words(self):
        root = ET.fromstring(alignment_svg(ALIGNMENT))
        cells = self.cells(root)
        weights = np.array([cell[2] for cell in cells]).reshape(4, 3)
        np.testing.assert_allclose(weights, WEIGHTS, atol=5e-4)
        assert cells[0][3] == "联 ← Call: 0.90"
        words = [text for text in root.iter(f"{SVG}text") if text.get("class") == "word"]
        assert [text.text for text in words] == SOURCE + TARGET
        for column, word in enumerate(words[:3]):
            assert abs(float(word.get("x")) - cells[column][0]) < 5
            assert float(word.get("y")) < cells[0][1] - 18
        for row, word in enumerate(words[3:]):
            assert abs(float(word.get("y")) - cells[3 * row][1]) < 8
            assert float(word.get("x")) < cells[0][0] - 18

    def test_larger_weights_carry_their_number(self):
        root = ET.fromstring(alignment_svg(ALIGNMENT))
        numbers = [t for t in root.iter(f"{SVG}text") if "number" in t.get("class")]
        assert [t.text for t in numbers] == ["0.90", "0.95", "0.50", "0.25", "0.25", "1.00"]
        assert ["hot" in t.get("class") for t in numbers] == [True, True, False, False, False, True]

    def test_it_says_what_it_is_of_and_how_it_is_read(self):
        root = ET.fromstring(alignment_svg(replace(ALIGNMENT, source="Call <us>", target="联系")))
        lines = [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "quiet"]
        assert lines[:2] == ["source", "translation"]
        texts = [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "text"]
        assert texts == ["Call <us>", "联系"]
        assert HOW_TO_READ in " ".join(lines)

    def test_words_are_written_as_in_html(self):
        for tokens, turned in ((["我", "们"], []), (["我", "I", "us", "我们的"], ["I", "us"])):
            alignment = Alignment(tokens, ["x"], [[1 / len(tokens)] * len(tokens)])
            words = [*ET.fromstring(alignment_svg(alignment)).iter(f"{SVG}text")]
            assert [t.text for t in words if t.get("transform")] == turned
            assert all("rotate(-90 " in t.get("transform", "rotate(-90 ") for t in words)
            down = [t.text for t in words if "vertical" in t.get("style", "")]
            assert down == (["我们的"] if turned else [])

    @pytest.mark.parametrize("size", [1, 30, 60])
    @pytest.mark.parametrize("title", [None, "Call us. → 联系我们。" * 4])
    @pytest.mark.parametrize("source", ["", "Call us. " * 40, "我" * 200])
    def test_everything_is_inside_the_picture(self, size, title, source):
        tokens = [f"word{i}" for i in range(size)]
        alignment = Alignment(tokens, tokens, np.eye(size), None, source, source)
        text = alignment_svg(alignment, title=title)
        root = ET.fromstring(text)
        width, height = float(root.get("width")), float(root.get("height"))
        assert root.get("viewBox") == f"0 0 {width:.0f} {height:.0f}"
        for box in root.iter(f"{SVG}rect"):
            if box.get("x"):
                assert 0 <= float(box.get("x")) <= width - float(box.get("width"))
                assert 0 <= float(box.get("y")) <= height - float(box.get("height"))
        for item in root.iter(f"{SVG}text"):
            size = 0.8 if item.get("class") == "quiet" else 1
            length = 8.2 * display_width(item.text) * size
            if item.get("transform"):
                assert float(item.get("y")) - length >= 0
            elif item.get("text-anchor") == "start":
                assert float(item.get("x")) + length * 0.9 <= width
            elif item.get("text-anchor") == "end":
                assert float(item.get("x")) - length * 0.9 >= 0

    def test_any_token_leaves_it_well_formed(self, evil):
        text = alignment_svg(evil, title="<title> & \x00")
        root = ET.fromstring(text.encode("utf-8"))
        words = [t.text for t in root.iter(f"{SVG}text") if t.get("class") == "word"]
        assert words == [visible(token) for token in [*EVIL, *EVIL[::-1]]]
        assert {tag.tag.removeprefix(SVG) for tag in root.iter()} == {
            "svg", "title", "style", "rect", "text", "g",
        }  # fmt: skip
        assert not re.search(r"url\(|@import|href", text)

    def test_dark_pages_are_served(self):
        style = ET.fromstring(alignment_svg(ALIGNMENT)).find(f"{SVG}style").text
        assert "@media (prefers-color-scheme: dark)" in style
        # var() is unknown to viewers other than browsers and would leave the cells black.
        assert "var(" not in style


def test_titles_of_cells_unescape_to_the_tokens(evil):
    titles = [html.unescape(t) for t in re.findall(r'title="([^"]*)"', alignment_html(evil))]
    assert titles[0] == f"{visible(EVIL[-1])} ← {EVIL[0]}: 0.17"
