"""The page without a server: the same words as Python's, and nothing from elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from bahdanau_hf import InputError, cli
from bahdanau_hf.demo.static_space import assemble_static_space, libraries_folder
from tests.helpers.browser import open_page
from tests.helpers.exported_checkpoint import Exported
from tests.helpers.tiny_checkpoint import LONG, SENTENCES

pytestmark = pytest.mark.browser

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
    if not libraries_folder().is_dir() and os.environ.get("REQUIRE_NPM") != "1":
        pytest.skip("needs what `make browser-libraries` fetches")
    command = ["push", str(exported.folder), "alice/page", "--space", "static", "--dry_run"]
    assert cli.main([*command, "--space_dir", str(folder)]) == 0
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
    assert page.inner_text("#status").startswith(("Translated in", "用时"))
    return page.eval_on_selector_all("#target p", "all => all.map(p => p.textContent)")


def test_the_page_translates_as_python_does(page: Any, site: str, exported: Exported) -> None:
    page.goto(site)
    page.wait_for_selector("#translate:enabled")
    assert page.inner_text("h1") == "English → Chinese"
    lines = [" ".join(text.split()) for text in [*SENTENCES, *ODD]]
    for beams in (1, 4):
        expected = [t.text for t in exported.translator.translate(lines, beams)]
        assert translate(page, lines, beams) == expected
    assert page.title() == "English → Chinese", "what is typed is never run"


@pytest.mark.slow
def test_tokens_are_those_of_python(page: Any, site: str, exported: Exported) -> None:
    page.goto(site)
    lines = [*SENTENCES, *ODD, "a\x85b\x1cc\u3000d\u2028e\ud800x\x00y\xad", "a😀饕餮"]
    found = page.evaluate(
        """async lines => {
            const { Translator } = await import('./translator.js');
            const translator = await Translator.load(new URL('model/', location.href));
            // Of the last line a byte is missing: such bytes are no text.
            const ids = lines.map(line => translator.encode(line).ids);
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


PHONE = {"viewport": {"width": 360, "height": 640}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
def test_the_page_shows_where_the_model_looked(
    site: str, browser: Any, exported: Exported, locale: str
) -> None:
    """Whole words as the demo page's map has them, on a phone, in the reader's language."""
    lines = ["We know him.", "I love 北京, isn’t it?", "My mother is a 😀 doctor."]
    with open_page(browser, **PHONE, locale=locale) as page:
        page.goto(site)
        page.wait_for_selector("#translate:enabled")
        assert not page.is_visible(".keyboard"), "a phone has no such keys"
        page.context.set_offline(True)  # once loaded, it needs nothing
        translate(page, lines, 1)
        for number, line in enumerate(lines):
            [found] = exported.translator.translate(line, 1, return_alignments=True)
            expected = found.alignment.by_words()
            table = page.locator("#maps table").nth(number)
            shown = "all => all.map(cell => +cell.style.getPropertyValue('--w'))"
            weights = table.locator(".weights td").evaluate_all(shown)
            assert weights == pytest.approx(expected.weights.flatten().tolist(), abs=2e-3)
            columns = table.locator("th[scope=col]").all_text_contents()
            assert columns == expected.source_tokens
            assert table.locator("th[scope=row]").all_text_contents() == expected.target_tokens
            said = page.locator("#maps .alignment").nth(number).inner_text()
            assert line in said
            assert found.text in said
        read = "head => +head.style.getPropertyValue('--lit')"
        head = page.locator("#maps table").first.locator("thead th").first
        assert head.evaluate(read) == 0
        page.locator("#maps table").first.locator("tbody th").first.tap()
        assert head.evaluate(read) > 0
        # On a phone the table scrolls in its frame, not the page.
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        text = page.inner_text("main")
        assert ("束宽" in text, "Beams" in text) == (locale == "zh-CN", locale == "en-US")
        assert ("每一行" in text, "Each row" in text) == (locale == "zh-CN", locale == "en-US")


def test_hovering_lights_the_words(page: Any, site: str) -> None:
    page.goto(site)
    page.wait_for_selector("#translate:enabled")
    assert page.is_visible(".keyboard")
    translate(page, ["We know him."], 1)
    page.hover("#maps tbody tr:nth-child(2) th")
    lit = page.locator("#maps thead th").evaluate_all(
        "heads => heads.map(head => +head.style.getPropertyValue('--lit'))"
    )
    assert sum(lit) == pytest.approx(1, abs=0.01)


def test_doubts_are_said_and_nothing_of_nothing(page: Any, site: str, exported: Exported) -> None:
    page.goto(site)
    page.wait_for_selector("#translate:enabled")
    page.fill("#source", " \n ")
    page.click("#translate")
    assert page.inner_text("#status") == ""
    assert not page.is_visible("#result")
    translate(page, ["今天天气很好。", "😀🎉", LONG, "Call us."], 1)
    notes = page.locator("#target .doubt").all_inner_texts()
    limit = exported.translator.max_source_length
    assert notes == [
        "This does not look like English: do not believe the translation.",
        "There is no word in it that the model knows: it was copied.",
        f"The model reads at most {limit} tokens: the end was left out.",
    ]


@pytest.mark.slow
def test_a_missing_model_is_said(page: Any, site: str) -> None:
    page.route("**/model/translation.json", lambda route: route.fulfill(status=404))
    page.goto(site)
    page.wait_for_selector("#status.error")
    message = "The model cannot be loaded: translation.json cannot be read (404)"
    assert page.inner_text("#status") == message


def test_the_space_says_what_it_is(site: str, tmp_path_factory: Any, exported: Exported) -> None:
    folder = tmp_path_factory.mktemp("space")
    names = assemble_static_space(exported.folder, folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert names == sorted(path.relative_to(folder).as_posix() for path in files)
    _, front, _ = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    front = yaml.safe_load(front)
    assert (front["sdk"], front["app_file"]) == ("static", "index.html")
    assert front["title"] == "English to Chinese"


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"not an exported model: no translation\.json"):
        assemble_static_space(tmp_path, tmp_path / "site")
