"""The page of `examples/browser`: the same words as Python's, and nothing from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.helpers.browser import open_page
from tests.helpers.exported_checkpoint import Exported
from tests.helpers.places import ROOT, load_program
from tests.helpers.tiny_checkpoint import SENTENCES

pytestmark = pytest.mark.browser

BROWSER = ROOT / "examples" / "browser"
# Marks of markup, of the tokenizer and of the regular expressions' far corners.
ODD = [
    '<img src=x onerror="document.title=1">',
    "<eos> <0x41> </s>",
    "I'll GO, won't you?  I’D",
    "e\u0301 é Ⅳ 3.14% foo_bar",
    "１２３，ａｂ アイスー ㄅㄆ 한국어",
    "𠀀𠮷野家 👨‍👩‍👧 \ufeffa\u200bb",
    "نص नमस्ते",
]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *values: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(exported: Exported, tmp_path_factory: Any) -> Iterator[str]:
    """The address of the page on this machine."""
    folder = tmp_path_factory.mktemp("site")
    # Tests fetch nothing; continuous integration does so before them.
    if not (BROWSER / "node_modules").is_dir() and os.environ.get("REQUIRE_NPM") != "1":
        pytest.skip("needs what `npm ci --ignore-scripts` puts into examples/browser")
    load_program("examples/browser/assemble.py").assemble(exported.folder, folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def translate(page: Any, lines: list[str], beams: int) -> list[str]:
    """Type, choose, press, and read what is shown."""
    page.fill("#source", "\n".join(lines))
    page.select_option("#beams", str(beams))
    page.press("#source", "Control+Enter")
    page.wait_for_function(
        "n => document.querySelectorAll('#target p').length === n"
        " && !document.getElementById('translate').disabled",
        arg=len(lines),
    )
    assert page.inner_text("#status").startswith("Translated in")
    return page.eval_on_selector_all("#target p", "all => all.map(p => p.textContent)")


def test_the_page_translates_as_python_does(page: Any, site: str, exported: Exported) -> None:
    page.goto(site)
    page.wait_for_selector("#translate:enabled")
    assert page.inner_text("h1") == "English to Chinese"
    lines = [" ".join(text.split()) for text in [*SENTENCES, *ODD]]
    for beams in (1, 4):
        expected = [t.text for t in exported.translator.translate(lines, beams)]
        assert translate(page, lines, beams) == expected
    assert page.title() == "English to Chinese", "what is typed is never run"


@pytest.mark.slow
def test_tokens_are_those_of_python(page: Any, site: str, exported: Exported) -> None:
    page.goto(site)
    lines = [*SENTENCES, *ODD, "a\x85b\x1cc\u3000d\u2028e\ud800x\x00y\xad", "a😀饕餮"]
    found = page.evaluate(
        """async lines => {
            const { Translator } = await import('./translator.js');
            const translator = await Translator.load(new URL('model/', location.href));
            // Of the last line a byte is missing: such bytes are no text.
            const ids = lines.map(line => translator.encode(line));
            ids.push(ids.at(-1).filter((_, i) => i !== 2));
            return ids.map(ids => ({ ids, text: translator.tokenizer.decode(ids) }));
        }""",
        lines,
    )
    from bahdanau_hf.modeling.pipeline_bahdanau import encode_sentences

    tokenizer, limit = exported.translator.tokenizer, exported.translator.max_source_length
    ids = [sentence.ids for sentence in encode_sentences(tokenizer, lines, limit, True)]
    ids.append([token for i, token in enumerate(ids[-1]) if i != 2])
    assert "\ufffd" in tokenizer.decode(ids[-1])
    assert [row["ids"] for row in found] == ids
    assert [row["text"] for row in found] == tokenizer.batch_decode(ids, skip_special_tokens=True)


@pytest.mark.slow
def test_the_page_shows_where_the_model_looked(site: str, browser: Any, exported: Exported) -> None:
    with open_page(browser, viewport={"width": 360, "height": 640}, has_touch=True) as page:
        page.goto(site)
        page.wait_for_selector("#translate:enabled")
        translate(page, ["We know him."], 1)
        page.tap("summary")
        alignment = exported.translator.translate("We know him.", 1, return_alignments=True)[0]
        expected = alignment.alignment
        assert expected is not None
        table = page.locator("#maps table")
        opacities = "all => all.map(rect => +rect.getAttribute('opacity'))"
        weights = table.locator("rect").evaluate_all(opacities)
        assert weights == pytest.approx(expected.weights.flatten().tolist(), abs=2e-3)
        columns = table.locator("th[scope=col]").all_text_contents()
        assert [column.strip() for column in columns] == expected.source_tokens
        # On a phone the table scrolls in its frame, not the page.
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


@pytest.mark.slow
def test_a_missing_model_is_said(page: Any, site: str) -> None:
    page.route("**/model/translation.json", lambda route: route.fulfill(status=404))
    page.goto(site)
    page.wait_for_selector("#status.error")
    message = "The model cannot be loaded: translation.json cannot be read (404)"
    assert page.inner_text("#status") == message


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"not an exported model: no translation\.json"):
        load_program("examples/browser/assemble.py").assemble(tmp_path, tmp_path / "site")
