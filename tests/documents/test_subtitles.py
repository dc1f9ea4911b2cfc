"""Subtitles: the words change, times and settings do not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf.documents.formats import translate_document


def shouted(name: str, text: str) -> str:
    return translate_document(name, text, str.upper)


TIME = "00:00:01,000 --> 00:00:02,500"
VTT = "00:01.000 --> 00:02.000 position:10%,line-left align:left"

SRT_CASES = [
    (f"1\n{TIME}\nhello there\n", f"1\n{TIME}\nHELLO THERE\n"),
    (f"1\n{TIME}\nno end", f"1\n{TIME}\nNO END"),
    (f"{TIME}\nno number\n\n{TIME}\nnext\n", f"{TIME}\nNO NUMBER\n\n{TIME}\nNEXT\n"),
    (f"1\r\n{TIME}\r\na b\r\n\r\n2\r\n", f"1\r\n{TIME}\r\nA B\r\n\r\n2\r\n"),
    (f"\ufeff1\n{TIME}\nhello\n", f"\ufeff1\n{TIME}\nHELLO\n"),
    (f"1\n{TIME}\nI was ill,\nso I stayed.\n", f"1\n{TIME}\nI WAS ILL,\nSO I STAYED.\n"),
    (f"1\n{TIME}\n- who?\n- you\n", f"1\n{TIME}\n- WHO?\n- YOU\n"),
    (f"1\n{TIME}\n<i>-who?</i>\n<i>-you</i>\n", f"1\n{TIME}\n<i>-WHO?</i>\n<i>-YOU</i>\n"),
    (f"1\n{TIME}\n<i>so <b>it</b> goes</i>\n", f"1\n{TIME}\n<i>SO <b>IT</b> GOES</i>\n"),
    (f"1\n{TIME}\n{{\\an8}}up there\n", f"1\n{TIME}\n{{\\an8}}UP THERE\n"),
    (
        f'1\n{TIME}\n<font color="#fff">white</font>\n',
        f'1\n{TIME}\n<font color="#fff">WHITE</font>\n',
    ),
    (f"1\n{TIME}\n\n2\n{TIME}\n♪ ... ♪\n", f"1\n{TIME}\n\n2\n{TIME}\n♪ ... ♪\n"),
    ("", ""),
]
VTT_CASES = [
    (f"WEBVTT - a title\n\n{VTT}\nhello\n", f"WEBVTT - a title\n\n{VTT}\nHELLO\n"),
    (
        f"WEBVTT\n\nNOTE\na remark\nin two lines\n\nintro\n{VTT}\nhello\n",
        f"WEBVTT\n\nNOTE\na remark\nin two lines\n\nintro\n{VTT}\nHELLO\n",
    ),
    (
        f"WEBVTT\n\nSTYLE\n::cue {{ color: red }}\n\nREGION\nid:fred\n\n{VTT}\nhello\n",
        f"WEBVTT\n\nSTYLE\n::cue {{ color: red }}\n\nREGION\nid:fred\n\n{VTT}\nHELLO\n",
    ),
    (f"{VTT}\n<v Mary Ann>hello</v>\n", f"{VTT}\n<v Mary Ann>HELLO</v>\n"),
    (f"{VTT}\n<c.loud>one</c> <00:01.500>two\n", f"{VTT}\n<c.loud>ONE</c> <00:01.500>TWO\n"),
    (f"{VTT}\nsalt &amp; pepper\n", f"{VTT}\nSALT &amp; PEPPER\n"),
]


@pytest.mark.parametrize(("text", "wanted"), SRT_CASES)
def test_subrip(text: str, wanted: str) -> None:
    assert shouted("a.srt", text) == wanted


@pytest.mark.parametrize(("text", "wanted"), VTT_CASES)
def test_webvtt(text: str, wanted: str) -> None:
    assert shouted("a.vtt", text) == wanted


@pytest.mark.parametrize(
    ("translation", "wanted"),
    [
        ("one two three four", "one two\nthree four"),
        ("a considerably long word", "a considerably\nlong word"),
        ("我昨天病了，所以待在家里。", "我昨天病了，\n所以待在家里。"),
        ("今晚给我打电话", "今晚给我打电话"),  # no place to break it
        ("word", "word"),
    ],
)
def test_a_translation_has_as_many_lines(translation: str, wanted: str) -> None:
    text = f"1\n{TIME}\nthe first\nthe second\n"
    found = translate_document("a.srt", text, lambda _: translation)
    assert found == f"1\n{TIME}\n{wanted}\n"


LINES = st.sampled_from(
    [
        TIME,
        VTT,
        "",
        " ",
        "1",
        "WEBVTT",
        "NOTE x",
        "a b",
        "- who",
        "<i>so</i>",
        "{\\an8}",
        "&amp;",
        "字。",
    ]
)
ENDS = st.sampled_from(["\n", "\r\n", "\r"])


@given(st.lists(LINES, max_size=12), ENDS, st.booleans())
def test_all_but_words_stays(lines: list[str], end: str, is_closed: bool) -> None:
    text = end.join(lines) + end * is_closed
    for name in ("a.srt", "a.vtt"):
        assert translate_document(name, text, str) == text
        kept = re.compile(r"[^\r\n]*-->[^\r\n]*|<[^>]*>|&\w+;|\{.*?\}")
        assert kept.findall(shouted(name, text)) == kept.findall(text)
