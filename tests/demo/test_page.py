"""The page to try a checkpoint: its answers beside the model's own, in Python and in a browser."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from bahdanau_hf import InputError, Translator
from bahdanau_hf.demo.page import (
    MAX_BEAMS,
    MAX_CHARACTERS,
    MAX_WAITING,
    NUM_AT_ONCE,
    Answers,
    build_page,
    stream_translation,
)
from bahdanau_hf.demo.space import assemble_space
from bahdanau_hf.inference.translator import Translation
from tests.helpers.browser import open_page
from tests.helpers.tiny_checkpoint import LONG, make_checkpoint

SENTENCE = "My mother is a doctor, and my father is a teacher."
SCRIPT = "<img src=x onerror='window.broken=1'><script>window.broken=1</script>"
TEMPLATE = "${window.broken=1} {{value}} {{#each}} &amp;"
MARKUP = f"{SCRIPT} {TEMPLATE}"


@pytest.fixture(scope="module")
def answers(translator: Translator) -> Answers:
    return Answers(translator)


def last(parts: Iterator[tuple[str, str, str, str]]) -> tuple[str, str, str, str]:
    return list(parts)[-1]


def numbers(table: str) -> list[str]:
    """The weights that the cells of a map show when they are pointed at, row by row."""
    return re.findall(r' title="[^"]*: (\d\.\d\d)"', table)


class TestStream:
    def test_it_ends_in_what_translate_says(self, translator: Translator) -> None:
        *parts, found = stream_translation(translator, SENTENCE)
        [expected] = translator.translate(SENTENCE, return_scores=True, return_alignments=True)
        assert isinstance(found, Translation)
        assert found == expected
        assert found.text == parts[-1] == "我妈妈是医生，我爸爸是老师。"
        np.testing.assert_array_equal(found.alignment.weights, expected.alignment.weights)
        assert len(parts) > 8
        assert all(longer.startswith(shorter) for shorter, longer in pairwise(parts))

    def test_who_leaves_early_stops_the_search(
        self, translator: Translator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ended: list[BaseException] = []
        started, left = threading.Event(), threading.Event()

        def translate(text: str, streamer: Any, **options: Any) -> list[Translation]:
            streamer.put(torch.tensor([5]))
            started.set()
            assert left.wait(timeout=60)
            try:
                streamer.put(torch.tensor([6]))
            except BaseException as error:
                ended.append(error)
                raise
            return []

        monkeypatch.setattr(translator, "translate", translate)
        parts = stream_translation(translator, SENTENCE)
        next(parts)
        assert started.wait(timeout=60)
        parts.close()
        left.set()
        # Whoever comes next is answered, though the thread was busy with the one who left.
        monkeypatch.undo()
        assert isinstance(list(stream_translation(translator, SENTENCE))[-1], Translation)
        assert [type(error) for error in ended] == [InterruptedError]

    def test_an_error_reaches_who_asked(
        self, translator: Translator, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*arguments: Any, **options: Any) -> None:
            raise InputError("no")

        monkeypatch.setattr(translator, "translate", fail)
        with pytest.raises(InputError, match="no"):
            list(stream_translation(translator, SENTENCE))


class TestAnswers:
    def test_languages_and_examples_are_the_checkpoints(self, answers: Answers) -> None:
        assert [name.en for name in answers.languages()] == ["English", "Chinese"]
        assert [name.zh for name in answers.languages()] == ["英语", "中文"]
        assert "Where is the station?" in answers.examples()
        assert ["Where is the station?", "车站在哪里？"] in answers.pairs()

    def test_it_says_how_small_the_model_is(self, answers: Answers) -> None:
        number = answers.translator.model.num_parameters()
        assert f"{number / 1e6:,.1f} million parameters: very small" in answers.about().en
        assert f"{number / 1e4:,.0f} 万个参数" in answers.about().zh

    def test_the_map_has_the_models_weights(self, answers: Answers) -> None:
        text, note, table, choices = last(answers.translate(SENTENCE))
        alignment = answers.translator.align(SENTENCE)
        shown = alignment.by_words()
        assert (text, note) == ("我妈妈是医生，我爸爸是老师。", "")
        assert shown.target_tokens == list(text)
        assert [*shown.source_tokens[:2], shown.source_tokens[-1]] == ["My", "mother", "(end)"]
        np.testing.assert_array_equal(shown.weights[:, :-1], alignment.words.weights)
        assert numbers(table) == [f"{weight:.2f}" for weight in shown.weights.flatten()]
        assert text in choices

    def test_beams_give_choices_with_scores(self, answers: Answers) -> None:
        *_, choices = last(answers.translate("Where is my mother?", 5, 3))
        [expected] = answers.translator.translate(
            ["Where is my mother?"], num_beams=5, num_return_sequences=3
        )
        read = r'<summary>(.*?)</summary>.*?tokens: (.*?)</span>.*?<td translate="no">(.*?)</td>'
        rows = re.findall(read, choices)
        wanted = [(f"{t.score:.2f}", f"{t.log_prob:.2f}", t.text) for t in expected]
        assert rows == wanted
        assert len(rows) == 3
        assert "score per token" in choices

    def test_greedy_and_beams_are_on_one_scale(self, answers: Answers) -> None:
        sentence = "Where is my mother?"
        scores = [
            re.findall(r"<summary>(.*?)</summary>", last(answers.translate(sentence, beams))[3])
            for beams in (1, 4)
        ]
        assert scores[0] == scores[1] != []

    @pytest.mark.parametrize(
        ("beams", "choices", "shown"),
        [
            (1, 3, 3),
            (2, 4, 4),
            (5, 2, 2),
            (9, 99, MAX_BEAMS),
            (float("nan"), float("inf"), MAX_BEAMS),
        ],
    )
    def test_there_are_as_many_beams_as_choices(
        self, answers: Answers, beams: float, choices: float, shown: int
    ) -> None:
        *_, listed = last(answers.translate("Where is my mother?", beams, choices))
        assert listed.count("<summary>") == shown

    def test_fewer_choices_are_said(
        self, answers: Answers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = [[Translation("a", "b", -1.0), Translation("a", "c", -2.0)]]
        monkeypatch.setattr(answers.translator, "translate", lambda *_, **__: found)
        assert "found no more than 2." in last(answers.translate("Call us.", 5, 4))[1]
        assert last(answers.translate("Call us.", 5, 2))[1] == ""

    @pytest.mark.parametrize(
        ("written", "is_foreign"),
        [
            ("Call us.", False),
            ("I live in 北京.", False),
            ("He is 42 years old, isn't he? 😀", False),
            ("Où est la gare ?", False),  # the same letters
            ("今天天气很好。", True),
            ("Где вокзал? OK", True),
            ("你好 means hello", False),
            ("😀🎉", True),
            ("42 ...", True),
            ("<b>bold</b> <i>", True),
            ("`x = 3` y_max --flag", True),
        ],
    )
    def test_another_script_is_noticed(
        self, answers: Answers, written: str, is_foreign: bool
    ) -> None:
        assert answers.looks_foreign(written) is is_foreign
        *_, note, _, _ = last(answers.translate(written))
        assert is_foreign == bool(re.search("not look like English|was copied", note))

    def test_an_unknown_language_looks_like_any(self, answers: Answers) -> None:
        other = Answers(answers.translator)
        other.source_lang = ""
        assert not other.looks_foreign("今天")
        other.source_lang = "ru"
        assert (other.looks_foreign("Где?"), other.looks_foreign("Where?")) == (False, True)

    @pytest.mark.parametrize(
        "text",
        ["", " \n ", None, 7, ["a"], "😀", "你好", MARKUP, LONG * 9, "\ud800", "\0", "a" * 10**6],
        ids=lambda text: repr(text)[:12],
    )
    def test_whatever_comes_there_is_an_answer(self, answers: Answers, text: Any) -> None:
        for beams in (1, 2):
            parts = last(answers.translate(text, beams, "many"))
            assert all(isinstance(part, str) for part in parts)
            assert not re.search("<(img|script)", "".join(parts[1:]))
            assert parts[0] or parts[1], "a word about why there is nothing"
            assert any("</td>" in part for part in parts) or re.search("first|parts", parts[1])

    def test_what_was_left_out_is_said(self, answers: Answers) -> None:
        assert f"first {MAX_CHARACTERS:,} characters" in last(answers.translate(LONG * 15))[1]

    @pytest.mark.parametrize("num_beams", [1, 3])
    @pytest.mark.parametrize(
        "text",
        [
            "Call us. He runs.",
            "Call us.\nHe runs.\n\n  I know.\n",
            LONG,
            "if it rains tomorrow, we will stay at home, " * 9,  # a sentence that is too long
            "Call us. " * 300,
        ],
        ids=["two", "paragraphs", "many", "long", "page"],
    )
    def test_a_text_is_translated_as_a_whole(
        self, answers: Answers, text: str, num_beams: int
    ) -> None:
        written, note, drawn, listed = last(answers.translate(text, num_beams, num_beams))
        assert written == answers.translator.translate_text(text, num_beams=num_beams).text
        assert written.count("\n") == text.count("\n")
        assert "Translated in parts" in note
        assert (drawn, listed) == ("", "")
        assert "left out" not in note

    def test_what_was_cut_is_said(self, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
        cut = Translation("a. B.", "b", truncated=True)
        monkeypatch.setattr(answers.translator, "translate_text", lambda *_, **__: cut)
        note = last(answers.translate("Call us. Go."))[1]
        assert "at most 24 tokens: the end was left out" in note

    def test_the_work_is_bounded(self, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
        asked: list[tuple[int, int]] = []

        def translate(texts: list[str], num_beams: int, **options: Any) -> Any:
            asked.append((len(texts[0]), num_beams))
            return [[Translation("a", "b", -1.0)]]

        monkeypatch.setattr(answers.translator, "translate", translate)
        last(answers.translate("a" * (MAX_CHARACTERS + 1), 10**9, 10**9))
        assert asked == [(MAX_CHARACTERS, MAX_BEAMS)]

    def test_what_a_model_writes_is_text_too(
        self, answers: Answers, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = [[Translation("a", SCRIPT, -1.0)]]
        monkeypatch.setattr(answers.translator, "translate", lambda *_, **__: found)
        assert "&lt;img" in last(answers.translate("a", 2))[3]

        def refuse(*arguments: Any, **options: Any) -> None:
            raise InputError(SCRIPT)

        monkeypatch.setattr(answers.translator, "translate", refuse)
        monkeypatch.setattr(answers.translator, "align", refuse)
        assert "&lt;img" in last(answers.translate("a", 2))[1]
        assert "&lt;img" in answers.align("a", "b")[0]

    def test_a_typed_translation_is_aligned(self, answers: Answers) -> None:
        note, table = answers.align("Call us.", "我爱你。")
        shown = answers.translator.align("Call us.", "我爱你。").by_words()
        assert note == ""
        assert numbers(table) == [f"{weight:.2f}" for weight in shown.weights.flatten()]
        assert "first" in answers.align("Call us.", " ")[0]
        assert "<img" not in "".join(answers.align(MARKUP, MARKUP))
        assert "at most 24 tokens" in answers.align(LONG, "我")[0]

    def test_without_attention_there_is_no_map(self, tmp_path: Path) -> None:
        plain = make_checkpoint(tmp_path, num_steps=0, use_attention=False)
        answers = Answers(Translator.from_pretrained(plain, device="cpu"))
        assert "no attention" in last(answers.translate("Call us."))[2]
        assert "no attention" in last(answers.translate("Call us.", 3))[2]
        assert "no attention" in answers.align("Call us.", "我")[0]


@pytest.mark.skipif(find_spec("gradio") is None, reason="the extra [demo] is not installed")
def test_visitors_are_bounded(answers: Answers) -> None:
    """How many wait, how many are served at once, and of how many Gradio keeps a session."""
    page, options = build_page(answers)
    assert page._queue.max_size == MAX_WAITING
    limits = [f.concurrency_limit for f in page.fns.values() if f.concurrency_id == "model"]
    assert limits == [NUM_AT_ONCE] * 3, "by key, by button, and what aligns"
    for function in page.fns.values():
        assert function.concurrency_limit is not None, "None would be any number"
    assert options["state_session_capacity"] <= 50


@pytest.mark.skipif(find_spec("gradio") is None, reason="the extra [demo] is not installed")
class TestSpace:
    def test_it_holds_what_it_needs(self, translator: Translator, tmp_path: Path) -> None:
        space = assemble_space(translator, tmp_path / "space")
        _, front, _ = (space / "README.md").read_text(encoding="utf-8").split("---\n", 2)
        front = yaml.safe_load(front)
        assert front["title"] == "English to Chinese"
        assert (front["sdk"], front["sdk_version"]) == ("gradio", version("gradio"))
        assert 'main(["demo", "--model"' in (space / front["app_file"]).read_text()
        needed = (space / "requirements.txt").read_text().splitlines()
        assert "torch==2.13.0" in needed
        assert not any("ruff" in line or "onnx" in line for line in needed)
        again = Translator.from_pretrained(space / "model", device="cpu")
        assert again.translate(SENTENCE) == translator.translate(SENTENCE)
        with pytest.raises(InputError, match="not empty"):
            assemble_space(translator, space)

    @pytest.mark.slow
    def test_it_runs_by_itself(self, checkpoint: Path, tmp_path: Path) -> None:
        app = [sys.executable, "-m", "bahdanau_hf", "demo", "--model", checkpoint]
        subprocess.run([*app, "--space_dir", tmp_path / "space"], check=True)
        code = (
            "import runpy, sys, gradio, bahdanau_hf.demo.page as page; print(page.__file__); "
            "gradio.Blocks.launch = lambda self, **_: (0, '', 0); made = []; "
            "build = page.build_page; "
            "page.build_page = lambda answers: made.append(answers) or build(answers); "
            "sys.argv = ['app.py']\n"
            "try: runpy.run_path('app.py', run_name='__main__')\n"
            "except SystemExit as end: assert not end.code\n"
            "print(made[0].translator.translate('Call us.')[0].text)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=tmp_path / "space",
            capture_output=True,
            text=True,
            check=True,
        )
        where, text = done.stdout.splitlines()[-2:]
        assert where == str(tmp_path / "space" / "bahdanau_hf" / "demo" / "page.py")
        assert text == "联系我们。"


@pytest.fixture(scope="module")
def address(answers: Answers) -> Iterator[str]:
    """The page, served on loopback."""
    pytest.importorskip("gradio")
    page, options = build_page(answers)
    _, url, _ = page.launch(prevent_thread_lock=True, quiet=True, **options)
    assert url.startswith("http://127.0.0.1:"), "nobody else can reach it"
    yield url
    page.close()


def shown_map(page: Any, place: str) -> list[str]:
    page.locator(f"{place} tbody tr").first.wait_for()
    return numbers(page.inner_html(place))


@pytest.mark.browser
class TestInTheBrowser:
    def test_type_translate_and_hover(self, address: str, browser: Any, answers: Answers) -> None:
        expected = answers.translator.align(SENTENCE).by_words().weights
        with open_page(browser, viewport={"width": 1200, "height": 900}) as page:
            page.goto(address, timeout=60_000)
            page.fill("#source textarea", SENTENCE)
            page.press("#source textarea", "Enter")
            assert shown_map(page, "#map") == [f"{weight:.2f}" for weight in expected.flatten()]
            written = page.input_value("#translation textarea")
            assert written == answers.translator.translate(SENTENCE)[0].text

            def lit() -> list[float]:
                read = "heads => heads.map(head => +head.style.getPropertyValue('--lit'))"
                return page.eval_on_selector_all("#map thead th", read)

            assert sum(lit()) == 0
            page.hover("#map tbody tr:nth-child(3) th")
            assert lit() == pytest.approx(expected[2].tolist(), abs=6e-4)
            page.hover("h1")
            assert sum(lit()) == 0
            page.focus("#map tbody tr:nth-child(1) th")
            page.keyboard.press("Tab")
            assert lit() == pytest.approx(expected[1].tolist(), abs=6e-4)
            # An example fills the box and is translated at once.
            page.click("text=It will snow tomorrow.")
            page.wait_for_function("document.querySelector('#translation textarea').value[0]=='明'")
            # All that is asked for with the keyboard: beams, choices, the button.
            page.fill("#beams input[type=number]", "4")
            page.press("#beams input[type=number]", "Tab")
            page.fill("#choices input[type=number]", "3")
            page.press("#choices input[type=number]", "Tab")
            page.focus("#go")
            page.keyboard.press("Enter")
            page.locator("#found tr").nth(3).wait_for()
            [best, *_] = answers.translator.translate(
                ["It will snow tomorrow."], num_beams=4, num_return_sequences=3
            )[0]
            assert f"{best.score:.2f}" in page.inner_text("#found tr:nth-child(2)")
            page.fill("#source textarea", " ")
            page.click("#go")
            page.wait_for_function("document.querySelector('#note').innerText.includes('first')")

    def test_a_chinese_browser_is_shown_chinese(self, address: str, browser: Any) -> None:
        with open_page(browser, locale="zh-CN") as page:
            page.goto(address, timeout=60_000)
            page.fill("#source textarea", "明天 Call us.")
            # Three choices need three beams: the other slider follows.
            page.fill("#choices input[type=number]", "3")
            page.press("#choices input[type=number]", "Tab")
            page.wait_for_function("document.querySelector('#beams input').value == 3")
            page.click("#go")
            page.locator("#found tr").nth(1).wait_for()
            said = page.evaluate(
                """() => {
                  const data = '[translate=no], button.gallery-item, script, style, svg, .sr-only';
                  document.querySelectorAll(data).forEach(e => e.remove());
                  return document.body.innerText;
                }"""
            )
            for text in (
                "英语 → 中文",
                "束宽",
                "候选译文数",
                "每词元得分",
                "每一行是译文中的一个词",
            ):
                assert text in said
            assert not re.search("[A-Za-z]{3}", said)

    def test_on_a_phone_what_is_typed_stays_text(self, address: str, browser: Any) -> None:
        phone = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
        with open_page(browser, **phone) as page:
            page.goto(address, timeout=60_000)
            page.fill("#source textarea", "I love <img src=x>")
            page.tap("#go")
            page.locator("#map tbody tr").first.wait_for()
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
            page.tap("#map tbody tr:nth-child(2) td >> nth=0")
            assert page.evaluate(
                "+document.querySelector('#map thead th').style.getPropertyValue('--lit') == "
                "+document.querySelector('#map tr:nth-child(2) td').style.getPropertyValue('--w')"
            )
            page.tap("button[role=tab]:has-text('Align')")
            for source in (SCRIPT, TEMPLATE):
                page.fill("#left textarea", source)
                page.fill("#right textarea", f"我 {MARKUP}")
                page.tap("#align")
                page.locator("#align-map thead th", has_text=source[0]).first.wait_for()
            rows = page.locator("#align-map tbody th").all_inner_texts()
            assert {"我", "<", "img", "$", "{"} <= set(rows)
            assert page.evaluate("window.broken") is None
            assert page.locator("#align-map img, #map img").count() == 0
            assert page.evaluate("document.documentElement.scrollWidth") <= 390
