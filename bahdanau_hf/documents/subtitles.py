"""Subtitles: SubRip (.srt) and WebVTT (.vtt)."""

from __future__ import annotations

import re
from functools import partial

from .segments import CODE, TAGS, Segment, make_segment

_LINE = re.compile(r"(.*?)([ \t]*(?:\r\n?|\n)|\Z)")
_DASH = re.compile(r"(?:<[^<>]*>|\{\\[^{}]*\}|\s)*[-–—]")
_COPIED = rf"^\s*[-–—]+\s*|\{{\\[^{{}}]*\}}|&\w+;|{CODE}|{TAGS}"
# Where a line may end: between words, or behind a stop of text without spaces.
_BREAK = re.compile(r"(?<=\S)\s+(?=\S)|(?<=[，。！？；：、…])(?=[^\s，。！？；：、…”’」』）])")


def read_subtitles(text: str) -> list[Segment]:
    """The cues' texts; numbers, times, settings, NOTE, STYLE and REGION blocks are copied.

    The lines of a cue are one text, unless they begin with a dash: then someone else speaks. A
    translation has as many lines, or fewer where it cannot be broken.
    """
    segments: list[Segment] = []
    spoken: list[tuple[str, str]] = []  # lines of a cue, and their ends

    def speak() -> None:
        if not spoken:
            return
        ends = [end for _, end in spoken]
        raw = "".join(line + end for line, end in spoken).removesuffix(ends[-1])
        joined = " ".join(line.strip() for line, _ in spoken)
        write = partial(_break_lines, count=len(spoken), end=ends[0])
        said = make_segment(raw, joined, copied=_COPIED)._replace(write=write)
        segments.extend([said, Segment(ends[-1])])
        spoken.clear()

    is_cue = False
    for line, end in _LINE.findall(text):
        is_time = "-->" in line
        is_cue = is_time or (is_cue and bool(line.strip()))
        if is_time or not is_cue:
            speak()
            segments.append(Segment(line + end))
            continue
        if _DASH.match(line):
            speak()
        spoken.append((line, end))
    speak()
    return segments


def _break_lines(text: str, count: int, end: str) -> str:
    """Break a text into `count` lines of about the same length."""
    lines = []
    for rest in range(count, 1, -1):
        if cuts := [cut.span() for cut in _BREAK.finditer(text)]:
            middle = len(text) / rest
            start, stop = min(cuts, key=lambda cut: abs(cut[0] - middle))
            lines.append(text[:start])
            text = text[stop:]
    return end.join([*lines, text])
