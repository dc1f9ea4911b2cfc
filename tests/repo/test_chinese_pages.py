"""A page in Chinese has the code, figures, flags and links of its English page, section by section.

Not compared are numbers written as words ("three points", 三个点), and comments in code.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.helpers.places import ROOT

DOCS = ROOT / "docs"
PAGES = {path.relative_to(DOCS).as_posix(): path for path in sorted(DOCS.rglob("*.zh.md"))}
PAGES["README"] = ROOT / "README.zh-CN.md"
# Sections that only readers in China need.
ONLY_CHINESE = {"## 国内网络", "## 中文的字体和编码", "## 从教程的程序到这个包"}

FENCE = re.compile(r"^```.*?^```$", re.M | re.S)
LINK = re.compile(r"\]\(([^)#]*)[^)]*\)")
CODE = re.compile(r"`([^`]+)`")
FIGURE = re.compile(r"(?<![A-Za-z\d_#.])(?<![A-Za-z]-)\d+(?:[.,:]\d+)*%?(?![A-Za-z\d_])")


def original(page: str) -> Path:
    return PAGES[page].with_name(f"{PAGES[page].name.split('.')[0]}.md")


def english(page: str) -> str:
    return original(page).read_text(encoding="utf-8")


def chinese(page: str) -> str:
    return PAGES[page].read_text(encoding="utf-8")


@cache
def sections(text: str) -> list[tuple[str, dict[str, list[str]]]]:
    """For each heading what stands below it; a page's first lines, its switch, are left out."""
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = FENCE.sub(lambda block: re.sub(r"(?:^|  )#.*$", "", block[0], flags=re.M), text)
    found = []
    for part in re.split(r"^(?=#+ )", text, flags=re.M)[1:]:
        title, _, body = part.partition("\n")
        prose = FENCE.sub("", body)
        links = {name.replace(".zh.md", ".md") for name in LINK.findall(prose) if name}
        prose = LINK.sub("]", prose)
        found.append(
            (
                title,
                {
                    "level": [title.partition(" ")[0]],
                    "code": FENCE.findall(body),
                    "figures": FIGURE.findall(CODE.sub("", prose)),
                    "flags and names": sorted({" ".join(c.split()) for c in CODE.findall(prose)}),
                    "links": sorted(links),
                    "rows of tables": ["|"] * len(re.findall(r"^\|", prose, re.M)),
                },
            )
        )
    return found


def differences(english: str, chinese: str) -> Iterator[str]:
    """What the Chinese text lacks or has too much, a line each."""
    ours = [part for part in sections(chinese) if part[0] not in ONLY_CHINESE]
    theirs = sections(english)
    if len(ours) != len(theirs):
        yield f"other sections: {[part[0] for part in theirs]}, {[part[0] for part in ours]}"
        return
    for (title, theirs_here), (titel, ours_here) in zip(theirs, ours, strict=True):
        for kind, wanted in theirs_here.items():
            if wanted != (here := ours_here[kind]):
                missing = [item for item in wanted if item not in here]
                strange = [item for item in here if item not in wanted]
                found = f"lacks {missing}, has {strange}" if missing + strange else "other order"
                yield f"{title} ({titel}), {kind}: {found}"


@pytest.mark.parametrize("page", PAGES)
def test_it_says_what_the_english_page_says(page: str) -> None:
    assert [*differences(english(page), chinese(page))] == []


def cases(page: str) -> Iterator[tuple[str, str]]:
    """The English page with one figure, line of code, flag, link or section changed."""
    text = english(page).partition("# ")[2]
    for kind, pattern, change in (
        ("figure", FIGURE, r"\g<0>9"),
        ("code", re.compile(r"(?<=\n)(?:bahdanau-hf|make|print)[ (].*"), r"more \g<0>"),
        ("flag", re.compile(r"`--\w+"), r"\g<0>_more"),
        ("link", re.compile(r"(?<=\]\()[^)#]+"), r"other/\g<0>"),
        ("section", re.compile(r"(?<=\n)##+ "), r"more "),
        ("row", re.compile(r"(?<=\n)\|.*\n"), r"\g<0>\g<0>"),
    ):
        for match in pattern.finditer(text):
            changed = f"{text[: match.start()]}{match.expand(change)}{text[match.end() :]}"
            yield f"{kind} {match[0]!r}", f"# {changed}"


@pytest.mark.parametrize("page", PAGES)
def test_it_notices_every_change(page: str) -> None:
    ours, tried = chinese(page), 0
    for name, changed in cases(page):
        assert next(differences(changed, ours), None), name
        tried += 1
    assert tried > 15


def test_the_first_pages_are_there_and_the_readmes_lead_to_each_other() -> None:
    names = ("index", "training", "your-data", "using", "attention", "from-d2l")
    assert {f"{name}.zh.md" for name in names} <= {*PAGES}
    assert "(README.zh-CN.md)" in english("README").splitlines()[0]
    assert "(README.md)" in chinese("README").splitlines()[0]


@pytest.mark.parametrize("page", PAGES)
def test_links_stay_in_chinese(page: str) -> None:
    """Where a page has been written in Chinese, no Chinese page sends its readers to English."""
    links = LINK.findall(chinese(page).partition("# ")[2])
    there = {(PAGES[page].parent / name).resolve() for name in links}
    assert there & {original(other) for other in PAGES} == set()


def test_the_navigation_is_in_chinese() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = text.partition("\nnav:\n")[2].partition("\n\n")[0]
    words = text.partition("nav_translations:\n")[2].partition("\n  - ")[0]
    titles = re.findall(r"^ +- (.+?):(?: \S+)?$", nav, re.M)
    assert {*titles} == {*re.findall(r"^ +(.+?): .+$", words, re.M)}
