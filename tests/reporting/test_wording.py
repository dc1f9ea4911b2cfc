"""English and Chinese: every text of the pages is in the table, and every page shows no other."""

from __future__ import annotations

import ast
import re
import string
from html.parser import HTMLParser
from pathlib import Path

import pytest

import bahdanau_hf
from bahdanau_hf.reporting.run_report import write_report
from bahdanau_hf.reporting.wording import CHINESE, Text, say, text
from tests.helpers.reported_run import write_run

PACKAGE = Path(bahdanau_hf.__file__).parent
FROM_FILES = {"words", "sentences"}  # parts of a run's calibration
BROWSER = PACKAGE / "demo" / "browser"
PAGES = [PACKAGE / "demo" / "page.py", PACKAGE / "metrics" / "analysis.py"]
PAGES += sorted((PACKAGE / "reporting").glob("*.py"))
TEMPLATES = sorted((PACKAGE / "reporting" / "pages").glob("*.html"))


def fields(pattern: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(pattern) if name}


def said_in(path: Path) -> set[str]:
    """The texts that a module says: all its literals that are in the table or given to `say`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    literals = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
    strings = {value for value in literals if isinstance(value, str) and value in CHINESE}
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            continue
        first = call.args[0] if call.args else None
        if call.func.id in ("say", "text", "spoken", "section") and isinstance(first, ast.Constant):
            strings.add(str(first.value))
    return strings


def said_in_template(path: Path) -> set[str]:
    """Likewise."""
    template = path.read_text(encoding="utf-8")
    literals = re.findall(r'"([^"]*)"', template)
    said = re.findall(r'\b(?:text|section)\("([^"]+)"', template)
    return {*said, *(value for value in literals if value in CHINESE)}


def said_in_the_browser() -> set[str]:
    marked = re.findall("data-say>([^<]+)<", (BROWSER / "index.html").read_text(encoding="utf-8"))
    script = (BROWSER / "page.js").read_text(encoding="utf-8")
    said = re.findall(r'(?:say|note)\(\s*"([^"]+)"', script)
    conditional = re.findall(r'\? say\("([^"]+)"\) : say\("([^"]+)"', script)
    return {*marked, *said, *(text for pair in conditional for text in pair)}


def test_the_table_is_whole() -> None:
    lines = (PACKAGE / "reporting" / "words.tsv").read_text(encoding="utf-8").splitlines()
    assert len(CHINESE) == len(lines), "no text stands there twice"
    for english, chinese in CHINESE.items():
        assert english.strip() == english != ""
        assert fields(english) == fields(chinese)
        names = re.sub(r"\{\w+\}|BLEU|chrF|MB|Ctrl|Enter", "", chinese)
        assert not re.search("[A-Za-z]", names), f"not Chinese: {chinese}"
        assert re.search("[\u4e00-\u9fff]", names) or not re.search(
            "[a-z]{3}", re.sub(r"\{\w+\}", "", english)
        )


def test_every_text_of_the_pages_is_in_the_table_and_no_other() -> None:
    in_python, in_templates = map(said_in, PAGES), map(said_in_template, TEMPLATES)
    said = FROM_FILES.union(*in_python, *in_templates, said_in_the_browser())
    assert TEMPLATES
    assert said - set(CHINESE) == set()
    assert set(CHINESE) - said == set()


def test_texts_stand_in_texts_in_each_language() -> None:
    label = text("{label}, {search}", label=Text("BLEU"), search=text("greedy"))
    assert label == Text("BLEU, greedy", "BLEU，贪心搜索")
    assert say("{count} beams", count='<"') == (
        '<span data-zh="束宽 &lt;&quot;">&lt;&quot; beams</span>'
    )
    assert say("a {name} of one's <own>") == (
        '<span translate="no">a {name} of one&#x27;s &lt;own&gt;</span>'
    )
    assert (
        Text("a", "甲").html("a", kind="b", href="c") == '<a class="b" href="c" data-zh="甲">a</a>'
    )


class Untold(HTMLParser):
    """Collects what a page says that is neither in two languages nor marked to be in none."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[tuple[str, bool]] = []
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("meta", "br", "wbr"):
            return
        told = tag in ("style", "script") or {"data-zh", "translate"} & dict(attrs).keys()
        self.open.append((tag, bool(told)))

    def handle_endtag(self, tag: str) -> None:
        self.open.pop()

    def handle_data(self, data: str) -> None:
        is_name = re.fullmatch(r"[\W\d]*", data) is not None
        if not is_name and not any(told for _, told in self.open):
            self.found.append(data)


@pytest.mark.parametrize(
    "left_out", [(), ("test_predictions.tsv",), ("metrics.jsonl", "settings.json")]
)
def test_a_report_says_nothing_else(tmp_path: Path, left_out: tuple[str, ...]) -> None:
    folder = write_run(tmp_path / "my-run")
    for name in left_out:
        (folder / name).unlink()
    assert Untold(write_report(folder).read_text(encoding="utf-8")).found == []


def test_what_is_untold_is_found() -> None:
    assert Untold(f"<p>{say('Scores')} <b translate=no>x</b> 3 words</p>").found == [" 3 words"]
