"""Confidence: from the model's own probabilities, for the words of the text, fitted to outcomes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from bahdanau_hf import InputError
from bahdanau_hf.inference.confidence import (
    _FEWEST_WORDS,
    _right,
    calibrate,
    read_log_probs,
    word_confidences,
)
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.modeling.pipeline_bahdanau import evaluating
from tests.helpers.tiny_checkpoint import PAIRS, SENTENCES, encode

SOURCES, TARGETS = map(list, zip(*PAIRS, strict=True))


@pytest.fixture
def calibrated(translator: Translator) -> Iterator[Translator]:
    """Knows sentences by heart, and is told that a third of them should have been otherwise."""
    times = -(-2 * _FEWEST_WORDS // sum(map(len, TARGETS)))
    sources, hypotheses = SOURCES * times, TARGETS * times
    references = [text if i % 3 else "?" for i, text in enumerate(hypotheses)]
    calibrate(translator, sources, hypotheses, references)
    yield translator
    translator.model.config.confidence = None


# --- probabilities -------------------------------------------------------------------------------


def test_log_probs_are_those_of_the_search(translator: Translator) -> None:
    model, tok = translator.model, translator.tokenizer
    for sentence in SENTENCES[:5]:
        (found,) = translator.translate(sentence, num_beams=1, return_scores=True)
        if not found.text:
            continue
        ids = encode(tok, sentence)
        with evaluating(model):
            outputs = model.generate(torch.tensor([ids]), num_beams=1)[0, 1:].tolist()
            (row,) = read_log_probs([model], tok, [ids], [outputs])
        assert row.sum() == pytest.approx(found.log_prob, abs=1e-4)
        assert row.mean() == pytest.approx(found.score, abs=1e-4)
        assert (row <= 0).all()


def test_log_probs_do_not_depend_on_the_batch(
    translator: Translator, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tok = translator.model, translator.tokenizer
    sources = [encode(tok, text) for text in SOURCES]
    targets = [encode(tok, text) for text in TARGETS]
    with evaluating(model):
        together = read_log_probs([model], tok, sources, targets)
        twice = read_log_probs([model, model], tok, sources, targets)
        monkeypatch.setattr("bahdanau_hf.inference.confidence._LOGIT_BYTES", 1)
        apart = read_log_probs([model], tok, sources, targets)
    for one, other, mean, ids in zip(together, apart, twice, targets, strict=True):
        assert one.shape == (len(ids),)
        np.testing.assert_allclose(one, other, atol=1e-5)
        np.testing.assert_allclose(one, mean, atol=1e-5)  # an ensemble of equals


# --- words ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "reference", "right"),
    [
        (["我", "好"], "我很好", [1, 1]),
        (["我", "我"], "我很好", [1, 0]),  # each of the reference's words counts once
        (["Tom", "is"], "tom Is here", [1, 1]),
        (["his"], "this", [0]),  # a word, not a piece of one
        ([], "我", []),
        (["我"], "", [0]),
    ],
)
def test_what_is_right(words: list[str], reference: str, right: list[int]) -> None:
    assert _right(words, reference).tolist() == right


def test_words_stand_where_they_say_and_the_surer_one_is_surer() -> None:
    text, spans = "go home.", [(0, 2), (3, 5), (5, 7), (7, 8), None]
    log_probs = np.log([0.9, 0.5, 0.5, 0.99, 0.999])
    words = word_confidences([0.0, 1.0, 0.0, 0.0, 0.0], text, spans, log_probs)
    assert [(w.word, text[w.start : w.end]) for w in words] == [(w, w) for w in ("go", "home", ".")]
    assert [w.confidence for w in words] == pytest.approx([0.9, 0.5, 0.99], abs=1e-6)


def test_certainty_itself_is_finite() -> None:
    words = word_confidences([0.0, 1.0, 1.0, 1.0, 1.0], "a", [(0, 1)], np.zeros(1))
    assert 0 < words[0].confidence <= 1
    words = word_confidences([0.0, 1.0, 1.0, 1.0, 1.0], "a", [(0, 1)], np.full(1, -np.inf))
    assert 0 <= words[0].confidence < 1


# --- fitting -------------------------------------------------------------------------------------


def test_what_is_known_by_heart_is_stated_as_often_right_as_it_was(calibrated: Translator) -> None:
    weights = calibrated.model.config.confidence
    assert len(weights) == 5
    assert np.isfinite(weights).all()
    found = calibrated.translate(SOURCES, return_confidence=True)
    stated = np.mean([word.confidence for t in found for word in t.word_confidences])
    assert stated == pytest.approx(2 / 3, abs=0.12)


def test_too_few_words_leave_no_confidence(calibrated: Translator) -> None:
    long = ["我" * _FEWEST_WORDS]  # words enough, but nothing to judge them by
    for sources, texts in ((SOURCES[:1], TARGETS[:1]), (SOURCES[:1], long), (["42"], ["42"])):
        with pytest.raises(InputError, match=f"are too few.*{_FEWEST_WORDS}"):
            calibrate(calibrated, sources, texts, texts)
        assert calibrated.model.config.confidence is None


def test_blank_sentences_and_translations_are_left_aside(translator: Translator) -> None:
    times = -(-2 * _FEWEST_WORDS // sum(map(len, TARGETS)))
    plain = (SOURCES * times, TARGETS * times, TARGETS * times)
    found = calibrate(translator, *plain)
    weights = translator.model.config.confidence
    padded = [[*texts, extra] for texts, extra in zip(plain, (" ", "我", "我"), strict=True)]
    assert calibrate(translator, *padded) == found
    assert translator.model.config.confidence == weights
    translator.model.config.confidence = None


# --- in use --------------------------------------------------------------------------------------


def test_a_translation_says_how_sure_it_is(calibrated: Translator) -> None:
    for num_beams in (1, 3):
        (found,) = calibrated.translate(SOURCES[0], num_beams=num_beams, return_confidence=True)
        words = found.word_confidences
        assert "".join(word.word for word in words) == "".join(found.text.split())
        assert found.confidence == pytest.approx(np.mean([word.confidence for word in words]))
        assert found.as_dict()["confidence"] == found.confidence
    assert calibrated.translate(SOURCES[0])[0].confidence is None
    (blank,) = calibrated.translate(" ", return_confidence=True)
    assert (blank.confidence, blank.word_confidences) == (1.0, ())
    for one in calibrated.translate(
        SOURCES[0], num_return_sequences=2, num_beams=3, return_confidence=True
    )[0]:
        assert "".join(word.word for word in one.word_confidences) == one.text
        assert 0 < one.confidence < 1


def test_confidence_does_not_depend_on_neighbours(calibrated: Translator) -> None:
    together = calibrated.translate(SENTENCES, return_confidence=True)
    for sentence, translation in zip(SENTENCES, together, strict=True):
        (alone,) = calibrated.translate(sentence, return_confidence=True)
        assert translation.confidence == pytest.approx(alone.confidence, abs=1e-4)


def test_it_is_saved_with_the_model(calibrated: Translator, tmp_path: Path) -> None:
    calibrated.model.save_pretrained(tmp_path)
    calibrated.tokenizer.save_pretrained(tmp_path)
    loaded = Translator.from_pretrained(tmp_path)
    assert loaded.model.config.confidence == calibrated.model.config.confidence
    (one,) = loaded.translate(SOURCES[0], return_confidence=True)
    (other,) = calibrated.translate(SOURCES[0], return_confidence=True)
    assert one.confidence == pytest.approx(other.confidence, abs=1e-6)


@pytest.mark.parametrize("weights", [None, [1.0], [1, 2, 3, 4, float("nan")], "sure", {"a": 1}])
def test_without_weights_it_is_refused_in_a_line(calibrated: Translator, weights: object) -> None:
    calibrated.model.config.confidence = weights
    with pytest.raises(InputError, match="no calibrated confidence"):
        calibrated.translate(SOURCES[0], return_confidence=True)
