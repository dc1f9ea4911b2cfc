"""Translator: the same whatever the batch, in order, scored and aligned by independent oracles."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bahdanau_hf import InputError
from bahdanau_hf.inference.kept_memory import KeptMemory
from bahdanau_hf.inference.translator import Translation, Translator
from tests.helpers.tiny_checkpoint import (
    LONG,
    MAX_SOURCE_LENGTH,
    PAIRS,
    SENTENCES,
    encode,
    make_checkpoint,
)


def test_it_has_learnt_its_sentences(translator: Translator) -> None:
    sources, targets = zip(*PAIRS, strict=True)
    assert [t.text for t in translator.translate(sources)] == list(targets)


# --- batches, order, streams ---------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "length_penalty": 2.0}])
@pytest.mark.parametrize(("batch_size", "window"), [(1, None), (4, 7), (64, None)])
@pytest.mark.grid
def test_a_sentence_is_translated_as_if_alone(
    translator: Translator, batch_size: int, window: int | None, options: dict[str, Any]
) -> None:
    options = {**options, "return_scores": True, "return_alignments": True}
    batched = Translator(translator.model, translator.tokenizer, batch_size=batch_size)
    together = list(batched.stream(SENTENCES, window=window, **options))
    assert [t.source for t in together] == SENTENCES
    for sentence, translation in zip(SENTENCES, together, strict=True):
        (alone,) = translator.translate(sentence, **options)
        assert (translation.text, translation.truncated) == (alone.text, alone.truncated)
        assert translation.score == pytest.approx(alone.score, abs=1e-4)
        assert (translation.alignment is None) == (alone.alignment is None)
        if alone.alignment is not None:
            assert translation.alignment.source_tokens == alone.alignment.source_tokens
            assert translation.alignment.target_tokens == alone.alignment.target_tokens
            np.testing.assert_allclose(
                translation.alignment.weights, alone.alignment.weights, atol=1e-5
            )


def test_scores_do_not_change_the_text(translator: Translator) -> None:
    for num_beams in (1, 4):
        plain = translator.translate(SENTENCES, num_beams=num_beams)
        scored = translator.translate(SENTENCES, num_beams=num_beams, return_scores=True)
        assert [t.text for t in plain] == [t.text for t in scored]
        assert all(t.score is None for t in plain)


def test_an_encoder_that_reads_padding_always_finds_as_much(tmp_path: Path) -> None:
    # Trained on a batch padded to its own longest sentence: what it says does not matter here.
    folder = make_checkpoint(tmp_path, num_steps=20, encoder_reads_padding=True)
    translator = Translator.from_pretrained(folder, device="cpu")
    options = {"return_scores": True, "max_new_tokens": 9}
    together = translator.translate(SENTENCES, **options)
    for sentence, translation in zip(SENTENCES, together, strict=True):
        (alone,) = translator.translate(sentence, **options)
        assert translation.text == alone.text
        assert translation.score == pytest.approx(alone.score, abs=1e-4)


def test_one_sentence_many_and_none(translator: Translator) -> None:
    assert translator.translate("Call us.") == [Translation("Call us.", "联系我们。")]
    assert translator.translate(["Call us."]) == translator.translate("Call us.")
    assert translator.translate(iter(["Call us.", ""]))[1] == Translation("", "")
    assert translator.translate([]) == translator.translate(iter(())) == []


def test_a_stream_reads_no_further_than_its_window(translator: Translator) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += 1
            yield PAIRS[read % len(PAIRS)][0]

    stream = translator.stream(endless(), window=3)
    assert read == 0
    for number in range(1, 8):
        assert next(stream).text == PAIRS[number % len(PAIRS)][1]
        assert read == -(-number // 3) * 3


def test_blank_sentences_never_reach_the_model(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(**_: Any) -> None:
        raise AssertionError("the model was asked")

    monkeypatch.setattr(translator.model, "generate", refuse)
    blank = ["", " ", "\t\u3000\r\n", "\x00\ufeff\x1b", "\ud800"]
    assert translator.translate(blank) == [Translation(text, "") for text in blank]
    several = translator.translate(blank, num_return_sequences=3, return_alignments=True)
    assert several == [[Translation(text, "", 0.0, log_prob=0.0)] for text in blank]


def test_too_long_sentences_are_cut_and_announced_once(
    translator: Translator, caplog: pytest.LogCaptureFixture
) -> None:
    words = LONG.split()
    sentences = ["Call us.", *(" ".join(words[:n]) for n in (13, 25, 40)), LONG * 999]
    lengths = [len(translator.tokenizer(s, verbose=False)["input_ids"]) for s in sentences]
    assert lengths[1] <= MAX_SOURCE_LENGTH < lengths[2] < lengths[3]
    with caplog.at_level(logging.WARNING):
        translations = list(translator.stream(sentences, window=2))
    assert [t.truncated for t in translations] == [False, False, True, True, True]
    messages = [r.getMessage() for r in caplog.records if r.name.startswith("bahdanau_hf")]
    assert len(messages) == 1
    assert "3 of 5 sentences" in messages[0]
    assert "number 3" in messages[0]
    # All three begin alike, so the model has read the same of them: all but the end, and the end.
    ids = torch.tensor([encode(translator.tokenizer, sentences[2])])
    assert ids.shape == (1, MAX_SOURCE_LENGTH)
    expected = translator.tokenizer.decode(
        translator.model.generate(ids)[0], skip_special_tokens=True
    )
    assert {t.text for t in translations[2:]} == {expected}
    caplog.clear()
    translator.translate(sentences[:2])
    assert not caplog.records


def test_without_a_limit_nothing_is_cut(checkpoint: Path) -> None:
    translator = Translator.from_pretrained(checkpoint, device="cpu")
    translator.tokenizer.model_max_length = 10**30
    whole = Translator(translator.model, translator.tokenizer)
    assert whole.max_source_length is None
    (translation,) = whole.translate(LONG, return_alignments=True)
    assert not translation.truncated
    tokens = translator.tokenizer(LONG.strip())["input_ids"]
    assert len(translation.alignment.source_tokens) == len(tokens) > MAX_SOURCE_LENGTH


# --- defaults and limits -------------------------------------------------------------------------


def test_the_checkpoint_sets_the_defaults(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy / "generation_config.json"
    defaults = json.loads(path.read_text())
    del defaults["max_length"]
    path.write_text(json.dumps({**defaults, "num_beams": 3, "max_new_tokens": 2}))
    translator = Translator.from_pretrained(copy, device="cpu")
    asked: list[dict[str, Any]] = []
    generate = translator.model.generate

    def listen(**kwargs: Any) -> Any:
        asked.append(kwargs)
        return generate(**kwargs)

    monkeypatch.setattr(translator.model, "generate", listen)
    assert len(translator.translate("Call us.")[0].text) == 2
    assert len(translator.translate("Call us.", max_new_tokens=3)[0].text) == 3
    assert len(translator.translate("Call us.", max_length=3)[0].text) == 2
    translator.translate("Call us.", num_beams=1)
    assert [kwargs["num_beams"] for kwargs in asked] == [3, 3, 3, 1]


def test_limits_are_set_without_complaints(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.generation import utils

    said: list[Any] = []
    for name in ("warning", "warning_once"):
        monkeypatch.setattr(utils.logger, name, lambda *args, **_: said.append(args))
    assert len(translator.translate("Call us.", max_new_tokens=2)[0].text) == 2
    assert len(translator.translate("Call us.", num_beams=2, max_new_tokens=3)[0].text) == 3
    translator.translate("Call us.", num_beams=1, length_penalty=2.0)
    assert said == []


def test_a_model_in_training_stays_so_and_drops_nothing(checkpoint: Path) -> None:
    translator = Translator.from_pretrained(checkpoint, device="cpu")
    assert not translator.model.training
    expected = translator.translate(SENTENCES, return_scores=True)
    translator.model.config.embedding_dropout = 0.5
    translator.model.train()
    assert translator.translate(SENTENCES, return_scores=True) == expected
    assert translator.align("Call us.").target_tokens[-1] == "<eos>"
    assert translator.model.training
    stream = translator.stream(SENTENCES, window=2)
    next(stream)
    assert translator.model.training


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", torch.bfloat16])
def test_half_precision(checkpoint: Path, dtype: str | torch.dtype) -> None:
    translator = Translator.from_pretrained(checkpoint, device="cpu", dtype=dtype)
    assert translator.model.dtype in (torch.bfloat16, torch.float16)
    translations = translator.translate([s for s, _ in PAIRS], return_alignments=True)
    assert [t.text for t in translations] == [target for _, target in PAIRS]


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "options", "message"),
    [
        (["Call us.", None], {}, "sentence 2 is not text: None"),
        ([b"Call us."], {}, "sentence 1 is not text"),
        (["a"], {"num_beams": 0}, "num_beams must be"),
        (["a"], {"num_beams": 2.0}, "num_beams must be"),
        (["a"], {"max_new_tokens": 0}, "max_new_tokens must be"),
        (["a"], {"num_return_sequences": 0}, "num_return_sequences must be"),
        (["a"], {"num_return_sequences": 3, "num_beams": 2}, "at least as many beams, not 2"),
    ],
)
def test_arguments_that_make_no_sense(
    translator: Translator, texts: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        translator.translate(texts, **options)


def test_more_mistakes(translator: Translator) -> None:
    with pytest.raises(InputError, match="iterable of sentences"):
        translator.stream("Call us.")
    with pytest.raises(InputError, match="window"):
        translator.stream(["Call us."], window=0)
    with pytest.raises(InputError, match="batch_size"):
        Translator(translator.model, translator.tokenizer, batch_size=0)
    with pytest.raises(ValueError, match="num_bims"):
        translator.translate("Call us.", num_bims=2)


# --- imports -------------------------------------------------------------------------------------


def test_the_package_hands_out_what_it_has_not_loaded() -> None:
    """That it has not loaded it before is shown in `test_architecture.py`."""
    import bahdanau_hf

    assert bahdanau_hf.Translator is Translator
    assert {"Translator", "BahdanauConfig"} <= set(dir(bahdanau_hf))
    assert set(bahdanau_hf.__all__) <= set(dir(bahdanau_hf))
    with pytest.raises(AttributeError, match="nothing"):
        bahdanau_hf.nothing  # noqa: B018


def test_every_public_name_exists() -> None:
    import bahdanau_hf

    for name in bahdanau_hf.__all__:
        assert getattr(bahdanau_hf, name) is not None


def test_memory_is_given_back_after_every_window(translator, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(KeptMemory, "give_back", lambda self: asked.append(True))
    assert len(list(translator.stream(SENTENCES[:3], window=2))) == 3
    assert len(asked) == 2
