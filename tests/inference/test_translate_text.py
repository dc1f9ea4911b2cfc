"""Whole texts, and what callers hand to a Translator besides lists of sentences."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GenerationConfig

from bahdanau_hf import InputError, Translator
from tests.helpers.tiny_checkpoint import PAIRS

SOURCES, TARGETS = zip(*PAIRS, strict=True)


def test_lines_and_paragraphs_stay(translator: Translator) -> None:
    text = f"{SOURCES[0]}\n{SOURCES[1]}\r\n\r\n\t{SOURCES[2]}\n"
    wanted = f"{TARGETS[0]}\n{TARGETS[1]}\r\n\r\n\t{TARGETS[2]}\n"
    assert translator.translate_text(text).text == wanted
    assert translator.translate_text("").text == ""
    assert translator.translate_text(" \n ").text == " \n "


def test_each_sentence_of_a_text_is_translated(translator: Translator) -> None:
    ends = [(s, t) for s, t in PAIRS if s.endswith((".", "!", "?"))]
    assert len(ends) > 3
    text = " ".join(source for source, _ in ends)
    assert translator.translate_text(text).text == "".join(target for _, target in ends)


def test_a_long_sentence_is_cut_and_nothing_is_dropped(translator: Translator) -> None:
    long = "if it rains tomorrow, we will stay at home, " * 9
    assert translator.translate([long])[0].truncated
    result = translator.translate_text(long)
    assert not result.truncated
    seen: list[str] = []
    stream = translator.stream

    def watched(texts, **options):
        texts = list(texts)
        seen.extend(texts)
        return stream(texts, **options)

    translator.stream = watched  # type: ignore[method-assign]
    try:
        translator.translate_text(long)
    finally:
        del translator.stream  # type: ignore[method-assign]
    assert "".join("".join(seen).split()) == "".join(long.split())


@pytest.mark.parametrize(
    "name",
    ["num_return_sequences", "return_scores", "return_alignments", "return_confidence"],
)
def test_what_belongs_to_sentences_is_refused(translator: Translator, name: str) -> None:
    with pytest.raises(InputError, match=name):
        translator.translate_text("a", **{name: 1})


def test_a_generation_config_is_honoured(translator: Translator) -> None:
    settings = GenerationConfig(max_new_tokens=1, num_beams=1)
    short = [t.text for t in translator.translate(SOURCES, generation_config=settings)]
    assert short == [t.text for t in translator.translate(SOURCES, max_new_tokens=1, num_beams=1)]
    assert short != list(TARGETS)


@pytest.mark.parametrize(
    "options",
    [
        {"length_penalty": float("nan"), "num_beams": 2},
        {"length_penalty": "2"},
        {"repetition_penalty": float("nan")},
        {"temperature": float("inf"), "do_sample": True},
    ],
)
def test_numbers_that_are_none_are_refused(translator: Translator, options: dict) -> None:
    with pytest.raises(InputError, match="must be a finite number"):
        translator.translate("a", **options)


def test_numbers_of_numpy_are_numbers(translator: Translator) -> None:
    options = {"num_beams": np.int64(3), "max_new_tokens": np.int32(4)}
    plain = {name: int(value) for name, value in options.items()}
    assert translator.translate(SOURCES, **options) == translator.translate(SOURCES, **plain)


@pytest.mark.parametrize("texts", [Path("x"), {"a": "b"}, b"a", 7, None])
def test_what_holds_no_sentences_is_refused(translator: Translator, texts: object) -> None:
    with pytest.raises(InputError, match=f"not as {type(texts).__name__}"):
        translator.translate(texts)  # type: ignore[arg-type]


def test_a_translation_as_json(translator: Translator) -> None:
    (result,) = translator.translate(SOURCES[0], return_alignments=True, return_scores=True)
    values = json.loads(json.dumps(result.as_dict()))
    assert (values["source"], values["text"]) == (SOURCES[0], TARGETS[0])
    assert values["truncated"] is False
    assert values["score"] == result.score
    assert values["alignment"] == result.alignment.as_dict()
    assert translator.translate(" ")[0].as_dict()["alignment"] is None


def test_stop_strings_find_their_tokenizer(translator: Translator) -> None:
    target = max(TARGETS, key=len)
    source = SOURCES[TARGETS.index(target)]
    (result,) = translator.translate(source, stop_strings=[target[1]])
    assert result.text == target[:2]


@pytest.mark.parametrize("options", [{"num_beams": 1}, {"do_sample": True, "num_beams": 1}])
def test_scores_of_a_translation_that_was_begun(translator: Translator, options: dict) -> None:
    """The score counts what the model added."""
    start = translator.model.config.decoder_start_token_id
    (ids,) = translator.tokenizer([text := TARGETS[0]])["input_ids"]
    begun = torch.tensor([[start, *ids[:1]]])
    (result,) = translator.translate(
        SOURCES[0], return_scores=True, decoder_input_ids=begun, **options
    )
    (whole,) = translator.translate(SOURCES[0], return_scores=True, num_beams=1)
    assert result.score <= 0
    if "do_sample" not in options:
        assert result.text == text == whole.text
        assert result.score >= whole.score


def test_a_checkpoint_in_a_sub_folder(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").symlink_to(checkpoint)
    found = Translator.from_pretrained(tmp_path, subfolder="inner", local_files_only=True)
    assert [t.text for t in found.translate(SOURCES)] == list(TARGETS)
    with pytest.raises(InputError, match="holds no model"):
        Translator.from_pretrained(tmp_path)


def test_a_variant_of_the_weights(translator: Translator, tmp_path: Path) -> None:
    translator.model.save_pretrained(tmp_path, variant="fp32")
    translator.tokenizer.save_pretrained(tmp_path)
    found = Translator.from_pretrained(tmp_path, variant="fp32")
    assert [t.text for t in found.translate(SOURCES)] == list(TARGETS)
    with pytest.raises(InputError, match=r"no model\.safetensors"):
        Translator.from_pretrained(tmp_path)
