"""A page to try a checkpoint in the browser (extra [demo]): what it answers, and the page itself.

Nothing is fetched from elsewhere: the fonts are the reader's own, and nothing is reported to
anyone. All that a visitor wrote is escaped before it becomes part of the page.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from html import escape
from pathlib import Path
from typing import Any

from transformers.generation.streamers import BaseStreamer

from ..alignment.record import Alignment
from ..alignment.words import split_words
from ..errors import InputError
from ..inference.segmentation import split_sentences
from ..inference.translator import Translation, Translator
from ..languages import EXAMPLES, base_language, language_name, letter_script, letters_of
from ..modeling.text_bahdanau import CODE
from ..reporting.attention_markup import ALIGNMENT_CSS, FONT_STACK, alignment_html
from ..reporting.wording import SPEAK, Text, say, text

MAX_CHARACTERS = 5000  # of a text that a visitor sends; the rest is not read
MAX_BEAMS = 10
MAX_WAITING = 400  # visitors in the queue; those who come then are told to try again
NUM_AT_ONCE = 2  # translations at the same time
_GRADIO_SETTINGS = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    # It keeps a record of each answer, and counts them all up after each one.
    "GRADIO_ANALYTICS_MAX_EVENTS": "100",
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000",
}

_CSS, _LIGHT_WORDS = (
    Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
)
# The same threads again and again: torch keeps memory for each thread that has ever used it.
_WORKERS = ThreadPoolExecutor(NUM_AT_ONCE, thread_name_prefix="translate")


class _Visitor(BaseStreamer):
    """Hands each token that `generate` chooses to the thread that answers a visitor."""

    def __init__(self) -> None:
        self.events: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.has_left = False

    def put(self, value: Any) -> None:
        """Take ids, `(1,)`; the first are the start token."""
        if self.has_left:
            raise InterruptedError("the visitor has left")
        self.events.put(value.flatten().tolist())

    def end(self) -> None:
        """Called after the last token; the translation comes when it is complete."""


def stream_translation(translator: Translator, text: str) -> Iterator[str | Translation]:
    """Translate greedily, showing what has been written so far after each token.

    Yields:
        Beginnings of the translation, each another than the one before; at last the `Translation`,
        with its score and, if the model has attention, its alignment: the same as `translate`'s.
    """
    visitor, has_attention = _Visitor(), translator.model.config.use_attention
    options = {"num_beams": 1, "return_scores": True, "return_alignments": has_attention}
    work = _WORKERS.submit(translator.translate, text, streamer=visitor, **options)
    work.add_done_callback(visitor.events.put)
    ids: list[int] = []
    shown = ""
    try:
        while isinstance(event := visitor.events.get(), list):
            ids += event
            # A character that is spelt in bytes is not whole before its last byte.
            written = translator.tokenizer.decode(ids, skip_special_tokens=True).rstrip("\ufffd")
            if written != shown:
                shown = written
                yield shown
    finally:
        visitor.has_left = True
    yield work.result()[0]


class Answers:
    """What the page answers, also to several threads at once: the parts of it that change."""

    def __init__(self, translator: Translator) -> None:
        self.translator = translator
        tokens = translator.tokenizer.init_kwargs
        self.source_lang = str(tokens.get("source_lang") or "")
        self.target_lang = str(tokens.get("target_lang") or "")
        self.has_attention = bool(translator.model.config.use_attention)

    def languages(self) -> tuple[Text, Text]:
        """Names of the languages, such as English and Chinese."""
        source, target = self.source_lang, self.target_lang
        return _language(source) or text("Source"), _language(target) or text("Translation")

    def about(self) -> Text:
        """What the model is, and how small."""
        millions = self.translator.model.num_parameters() / 1e6
        count = Text(f"{millions:,.1f} million", f"{millions * 100:,.0f} 万")
        return text(
            "A recurrent network with attention, {size}: very small beside today's chat models. It "
            "knows the kind of sentences that it was trained on; of others it makes fluent "
            "nonsense.",
            size=text("{count} parameters", count=count),
        )

    def examples(self) -> list[str]:
        """Sentences to try, if there are some in the checkpoint's language."""
        return EXAMPLES.get(base_language(self.source_lang), [])

    def pairs(self) -> list[list[str]]:
        """The same with translations, if there are some in both languages."""
        translations = EXAMPLES.get(base_language(self.target_lang), [])
        return [list(pair) for pair in zip(self.examples(), translations, strict=False)]

    def looks_foreign(self, written: str) -> bool:
        """Whether most words of a text are not of the source's script, or are code and marks."""
        scripts = letters_of(self.source_lang) if self.source_lang else frozenset()
        words = [word.text[0] for word in split_words(CODE.sub(" _ ", written))]
        own = [letter_script(char) in scripts for char in words if not char.isdigit()]
        letters = [char for char in words if char.isalpha() or char == "_"]
        return bool(scripts) and (not letters or sum(own) * 2 < len(letters))

    def translate(
        self, written: Any, num_beams: Any = 1, num_choices: Any = 1
    ) -> Iterator[tuple[str, str, str, str]]:
        """Translate what a visitor typed: a sentence with its map, or a text sentence by sentence.

        Args:
            written: what was typed; of more than `MAX_CHARACTERS` the beginning is taken.
            num_beams: 1 to `MAX_BEAMS`; with 1 the translation is shown token by token.
            num_choices: so many translations of a sentence; more than beams are as many beams.

        Yields:
            Translation (text), note, attention map and choices (HTML).
        """
        written, notes = _bounded(written)
        if not written.strip():
            yield "", _note([say("Type a sentence first.")]), "", ""
            return
        choices = _bounded_beams(num_choices)
        beams = max(choices, _bounded_beams(num_beams))
        found: Sequence[Translation] = []
        in_parts = sum(bool(sentence.text) for sentence in split_sentences(written)) > 1
        try:
            if beams == 1 and not in_parts:
                for part in stream_translation(self.translator, written):
                    if isinstance(part, str):
                        yield part, _note(notes), "", ""
                    else:
                        found = [part]
            elif not in_parts:
                options: dict[str, Any] = {"num_return_sequences": max(2, choices)}
                options["return_alignments"] = self.has_attention
                [found] = self.translator.translate([written], num_beams=beams, **options)
            if in_parts := in_parts or found[0].truncated:
                found = [self.translator.translate_text(written, num_beams=beams)]
        except (InputError, ValueError) as error:
            yield "", _note([escape(str(error))]), "", ""
            return
        best, shown = found[0], found[:choices]
        if best.truncated:
            notes.append(self._cut())
        if best.copied:
            notes.append(say("There is no word in it that the model knows: it was copied."))
        elif self.looks_foreign(written):
            said = "This does not look like {language}: do not believe the translation."
            notes.append(say(said, language=self.languages()[0]))
        if not best.text:
            notes.append(say("The model has no words for this."))
        drawn, listed = self._map(best.alignment), _choices(shown)
        if in_parts:
            notes.append(say("Translated in parts: map and choices belong to a single sentence."))
            drawn = listed = ""
        elif len(shown) < choices and not best.copied:
            notes.append(say("The search found no more than {count}.", count=len(shown)))
        yield best.text, _note(notes), drawn, listed

    def align(self, source: Any, target: Any) -> tuple[str, str]:
        """Note and map (HTML) of where the model would look while it writes what was typed."""
        (source, notes), (target, more) = _bounded(source), _bounded(target)
        if not source.strip() or not target.strip():
            return _note([say("Type a sentence and its translation first.")]), ""
        try:
            alignment = self.translator.align(source, target)
        except (InputError, ValueError) as error:
            return _note([escape(str(error))]), ""
        words = alignment.words
        if words is not None and len(words.source_words) < len(split_words(source)):
            notes.append(self._cut())
        return _note(notes or more), self._map(alignment)

    def _cut(self) -> str:
        said = "The model reads at most {limit} tokens: the end was left out."
        return say(said, limit=self.translator.max_source_length)

    def _map(self, alignment: Alignment | None) -> str:
        if alignment is not None:
            return alignment_html(alignment.by_words(), focusable=True)
        return "" if self.has_attention else _note([say("This model has no attention to show.")])


def _language(code: str) -> Text | None:
    return Text(language_name(code), language_name(code, "zh")) if code else None


def _bounded(written: Any) -> tuple[str, list[str]]:
    written = written if isinstance(written, str) else ""
    if len(written) <= MAX_CHARACTERS:
        return written, []
    note = say("Only the first {most} characters were read.", most=f"{MAX_CHARACTERS:,}")
    return written[:MAX_CHARACTERS], [note]


def _bounded_beams(value: Any) -> int:
    return int(min(MAX_BEAMS, max(1, value))) if isinstance(value, int | float) else 1


def _note(notes: Sequence[str]) -> str:
    return f'<p class="note" role="status">{" ".join(notes)}</p>' if notes else ""


def _choices(translations: Sequence[Translation]) -> str:
    hint = "natural logarithm of the probability, per token; summed over the tokens: {total}"
    rows = [f'<tr><th></th><th class="number">{say("score per token")}</th><th></th></tr>']
    for rank, found in enumerate(translations, start=1):
        told = say(hint, total=f"{found.log_prob or 0.0:.2f}")
        rows.append(
            f'<tr><td class="number">{rank}.</td><td class="number">'
            f"<details><summary>{found.score or 0.0:.2f}</summary>{told}</details></td>"
            f'<td translate="no">{escape(found.text)}</td></tr>'
        )
    return f'<table class="choices">{"".join(rows)}</table>'


def build_page(answers: Answers) -> tuple[Any, dict[str, Any]]:
    """Lay out Gradio's `Blocks`, the queue bounded, and what `launch` must be given with it.

    Raises:
        InputError: Gradio is not installed.
    """
    for name, value in _GRADIO_SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import gradio as gr
    except ImportError:
        raise InputError("the page needs pip install 'bahdanau-hf[demo]'") from None
    english: dict[str, str] = {}
    chinese: dict[str, str] = {}
    i18n = gr.I18n(en=english, zh=chinese, **{"zh-CN": chinese, "zh-TW": chinese})

    def spoken(said: str | Text) -> Any:
        """A text that Gradio shows in the browser's language."""
        words, key = text(said), f"text{len(english)}"
        english[key], chinese[key] = words.en, words.zh or words.en
        return i18n(key)

    source_name, target_name = answers.languages()
    title = text("{source} → {target}", source=source_name, target=target_name)
    # Below this width boxes stand one below the other.
    wide: dict[str, Any] = {"min_width": 260}
    box: dict[str, Any] = {"lines": 2, "max_lines": 6, "max_length": MAX_CHARACTERS, **wide}
    private: dict[str, Any] = {"api_visibility": "private"}
    options = {"concurrency_id": "model", "concurrency_limit": NUM_AT_ONCE, **private}
    options |= {"show_progress": "hidden"}
    plain = {"apply_default_css": False}  # its own would paint over quiet texts and numbers
    examples = {"run_on_click": True, "cache_examples": False, **private}
    with gr.Blocks(title=title.en, analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.HTML(f"{title.html('h1')}<p class=about>{answers.about().html()}</p>")
        with gr.Tab(spoken("Translate")):
            with gr.Row():
                typed = gr.Textbox(
                    label=spoken(source_name),
                    placeholder=spoken("Type a sentence or a text, then press Enter"),
                    autofocus=True, elem_id="source", **(box | {"lines": 1}),
                )  # fmt: skip
                written = gr.Textbox(
                    label=spoken(target_name), interactive=False, lines=1, elem_id="translation",
                    buttons=["copy"], **wide,
                )  # fmt: skip
            with gr.Row():
                beams = gr.Slider(
                    1, MAX_BEAMS, 1, step=1, label=spoken("Beams"), elem_id="beams",
                    info=spoken("1: greedy, shown while it is written"), **wide,
                )  # fmt: skip
                choices = gr.Slider(
                    1, MAX_BEAMS, 1, step=1, label=spoken("Choices"), elem_id="choices",
                    info=spoken("how many translations, at most as many as beams"), **wide,
                )  # fmt: skip
            # Neither can be moved to where the other would not do.
            both = [beams, choices]
            choices.input(None, both, beams, js="(n, k) => Math.max(n, k)", **private)
            beams.input(None, both, choices, js="(n, k) => Math.min(n, k)", **private)
            go = gr.Button(spoken("Translate"), variant="primary", elem_id="go")
            note = gr.HTML(elem_id="note", **plain)
            found = gr.HTML(elem_id="found", **plain)
            drawn = gr.HTML(elem_id="map", js_on_load=_LIGHT_WORDS, **plain)
            outputs = [written, note, drawn, found]
            for event in (typed.submit, go.click):
                given = [typed, beams, choices]
                event(answers.translate, given, outputs, trigger_mode="always_last", **options)
            if answers.examples():
                gr.Examples(
                    [[sentence] for sentence in answers.examples()], typed, outputs,
                    fn=lambda sentence: (yield from answers.translate(sentence)),
                    label=spoken("Examples"), **examples,
                )  # fmt: skip
        if answers.has_attention:
            with gr.Tab(spoken("Align")):
                with gr.Row():
                    left = gr.Textbox(label=spoken(source_name), elem_id="left", **box)
                    right = gr.Textbox(label=spoken(target_name), elem_id="right", **box)
                look = gr.Button(spoken("Align"), variant="primary", elem_id="align")
                align_note = gr.HTML(elem_id="align-note", **plain)
                align_map = gr.HTML(elem_id="align-map", js_on_load=_LIGHT_WORDS, **plain)
                shown = [align_note, align_map]
                look.click(answers.align, [left, right], shown, **options)
                if answers.pairs():
                    gr.Examples(
                        answers.pairs(), [left, right], shown, fn=answers.align,
                        label=spoken("Examples"), **examples,
                        example_labels=[" → ".join(pair) for pair in answers.pairs()],
                    )  # fmt: skip
    page.queue(max_size=MAX_WAITING, api_open=False)
    font = [name.strip(' "') for name in FONT_STACK.split(",")]
    theme = gr.themes.Base(font=font, font_mono=["ui-monospace", "monospace"])
    launch = {"theme": theme, "css": ALIGNMENT_CSS + _CSS, "footer_links": [], "i18n": i18n}
    launch |= {"head": f"<script>{SPEAK}</script>"}
    # Nothing is uploaded, and no second server is started.
    launch |= {"max_file_size": 1, "ssr_mode": False, "enable_monitoring": False}
    # Of each session Gradio keeps a copy of the layout, which this page has no use for.
    launch |= {"state_session_capacity": 50}
    return page, launch
