"""Tokens that only the source side has: never written, and no index out of range wherever named.

The encoder knows ids up to `encoder_vocab_size`, the decoder up to `vocab_size`. What lies between
has probability zero: to forbid or to punish it is to do nothing, and it cannot be forced.
"""

import logging
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close
from transformers import pipeline

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration
from bahdanau_hf.inference.translator import Translator
from tests.helpers.tiny_checkpoint import PAIRS

SOURCE_IDS, TARGET_IDS, UNK = 2000, 1003, 3
ONLY = [1003, 1500, 1999]  # the first, one, and the last of those that only the source has
IDS = torch.tensor([[7, 1003, 1500, 2], [1999, 5, 9, 2], [4, 6, 8, 2]])


@cache
def make_model() -> BahdanauForConditionalGeneration:
    """A model that writes what it pleases; its settings are left alone."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        config = BahdanauConfig(
            vocab_size=TARGET_IDS,
            encoder_vocab_size=SOURCE_IDS,
            embedding_size=8,
            hidden_size=12,
            dropout=0.0,
        )
        model = BahdanauForConditionalGeneration(config).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
        model.lm_head.bias[config.eos_token_id] -= 3
    return model


def write(num_beams: int, **options: Any) -> list[list[int]]:
    options = {"input_ids": IDS, "attention_mask": torch.ones_like(IDS)} | options
    return make_model().generate(**options, num_beams=num_beams, max_new_tokens=6).tolist()


def refuse(num_beams: int, token: int, **options: Any) -> None:
    """The model's own word for it: one line, which names the token."""
    with pytest.raises(ValueError, match=rf"\b{token}\b") as caught:
        write(num_beams, **options)
    assert "\n" not in str(caught.value)


beams = pytest.mark.parametrize("num_beams", [1, 3])


# What is forbidden or punished


@beams
@pytest.mark.parametrize(
    "options",
    [
        {"bad_words_ids": [[token] for token in ONLY]},
        {"bad_words_ids": [[1500, 7], [7, 1500], [1003, 1999]]},
        {"sequence_bias": [[[1500], 90.0], [[7, 1999], 90.0], [[1003, 7], -90.0]]},
        {"sequence_bias": [[[1999], float("-inf")]]},
        {"suppress_tokens": ONLY},
        {"begin_suppress_tokens": ONLY},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_has_no_probability_cannot_lose_or_gain_it(num_beams: int, options: dict) -> None:
    assert write(num_beams, **options) == write(num_beams)


@beams
def test_other_words_of_a_list_are_still_forbidden(num_beams: int) -> None:
    favourite = write(num_beams)[0][1]
    expected = write(num_beams, bad_words_ids=[[favourite]])
    assert write(num_beams, bad_words_ids=[[1500], [favourite], [7, 1999]]) == expected
    assert favourite not in {token for row in expected for token in row}
    biased = write(num_beams, sequence_bias=[[[favourite], -50.0]])
    assert write(num_beams, sequence_bias=[[[1500], 9.0], [[favourite], -50.0]]) == biased


class Punish:
    """Transformers' penalty on words of the source, over those that can be written."""

    def __init__(self, penalty: float, rows: int):
        self.penalty, self.rows = penalty, rows

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        changed = scores.clone()
        for i, row in enumerate(IDS.repeat_interleave(self.rows, dim=0).tolist()):
            for token in {token for token in row if token < TARGET_IDS}:
                score = scores[i, token]
                # As the library has it: its factor is one over the penalty.
                changed[i, token] = score * (1 / self.penalty if score < 0 else self.penalty)
        return changed


class Forbid(Punish):
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        changed = scores.clone()
        for i, row in enumerate(IDS.repeat_interleave(self.rows, dim=0).tolist()):
            changed[i, [token for token in row if token < TARGET_IDS]] = -torch.inf
        return changed


@beams
@pytest.mark.parametrize("penalty", [1.2, 9.0, 0.2])
def test_encoder_repetition_penalty(num_beams: int, penalty: float) -> None:
    expected = write(num_beams, logits_processor=[Punish(penalty, num_beams)])
    assert write(num_beams, encoder_repetition_penalty=penalty) == expected
    if penalty == 9.0:
        assert expected != write(num_beams)


@beams
def test_encoder_no_repeat_ngram_size(num_beams: int) -> None:
    expected = write(num_beams, logits_processor=[Forbid(1.0, num_beams)])
    assert write(num_beams, encoder_no_repeat_ngram_size=1) == expected
    for row, source in zip(expected, IDS.tolist(), strict=True):
        assert not set(row[1:]) & {token for token in source if token < TARGET_IDS}


@beams
def test_with_what_else_bends_scores(num_beams: int) -> None:
    """The order of the library's steps is kept, scores and settings come out as wide as before."""
    options = {
        "encoder_repetition_penalty": 3.0,
        "bad_words_ids": [[1500]],
        "no_repeat_ngram_size": 1,
        "repetition_penalty": 1.3,
        "renormalize_logits": True,
        "remove_invalid_values": True,
        "min_new_tokens": 3,
    }
    model = make_model()
    outputs = model.generate(
        input_ids=IDS, num_beams=num_beams, max_new_tokens=6, **options, output_scores=True,
        return_dict_in_generate=True,
    )  # fmt: skip
    assert {step.shape[1] for step in outputs.scores} == {TARGET_IDS}
    assert outputs.sequences.max() < TARGET_IDS
    sampled = model.generate(
        input_ids=IDS, do_sample=True, top_k=9, top_p=0.9, max_new_tokens=6, **options
    )
    assert sampled.max() < TARGET_IDS


# What is forced


@beams
@pytest.mark.parametrize("token", ONLY)
def test_what_cannot_be_written_cannot_be_forced(num_beams: int, token: int) -> None:
    refuse(num_beams, token, forced_bos_token_id=token)
    prompt = torch.tensor([[1, 5], [1, token], [1, 6]])
    refuse(num_beams, token, decoder_input_ids=prompt)
    refuse(num_beams, token, decoder_input_ids=torch.tensor([[1, token, 5]] * 3))
    refuse(num_beams, token, prefix_allowed_tokens_fn=lambda row, words: [token])


@beams
def test_one_sentence_that_may_write_nothing(num_beams: int) -> None:
    refuse(
        num_beams, 1500, prefix_allowed_tokens_fn=lambda row, words: [5, 6] if row == 0 else [1500]
    )


@beams
def test_of_allowed_words_those_that_can_be_written_are(num_beams: int) -> None:
    expected = write(num_beams, prefix_allowed_tokens_fn=lambda row, words: [5, 11, 2])
    found = write(num_beams, prefix_allowed_tokens_fn=lambda row, words: [1500, 5, 11, 1999, 2])
    assert found == expected
    assert {token for row in found for token in row} <= {0, 1, 2, 5, 11}


@beams
def test_ids_that_no_side_has_are_still_refused(num_beams: int) -> None:
    refuse(num_beams, 2000, bad_words_ids=[[2000]])
    refuse(num_beams, 2000, sequence_bias=[[[2000], 1.0]])
    refuse(num_beams, 2000, forced_bos_token_id=2000)
    refuse(num_beams, 2000, decoder_input_ids=torch.tensor([[1, 2000]] * 3))
    refuse(num_beams, 2000, input_ids=torch.tensor([[2000, 2]] * 3))


@beams
def test_the_sources_own_words_may_be_forced(num_beams: int) -> None:
    assert all(row[1] == 8 for row in write(num_beams, forced_bos_token_id=8))


# Teacher forcing


def loss(labels: Tensor, **options: Any) -> Tensor:
    return make_model()(input_ids=IDS, labels=labels, **options).loss


@pytest.mark.parametrize(("skip_logits", "more"), [(False, 6), (True, 1003)])
def test_labels_become_unk(
    skip_logits: bool,
    more: int,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
) -> None:
    labels = torch.tensor([[5, more, 2, -100], [1999, 1500, 7, 2], [8, 2, -100, -100]])
    make_model()._has_warned_of_labels = False  # it does so once
    count = 2 + (more >= TARGET_IDS)

    def said() -> list[str]:
        logged = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        caplog.clear()
        return logged + [str(recwarn.pop().message) for _ in range(len(recwarn))]

    with caplog.at_level(logging.WARNING):
        found = loss(labels, skip_logits=skip_logits)
        (warning,) = said()
        expected = loss(labels.where(labels < TARGET_IDS, UNK), skip_logits=skip_logits)
        assert said() == []
    assert str(count) in re.findall(r"\d+", warning)
    assert "<unk>" in warning
    assert "\n" not in warning
    assert_close(found, expected)
    assert labels.max() == 1999, "the caller's labels are the caller's"


@pytest.mark.parametrize("token", [2000, 5000, -1])
def test_labels_that_no_side_has_are_refused(token: int) -> None:
    with pytest.raises(ValueError, match=rf"labels .*{token}") as caught:
        loss(torch.tensor([[5, token, 2]] * 3))
    assert "\n" not in str(caught.value)


def test_decoder_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"decoder_input_ids .*1500") as caught:
        make_model()(input_ids=IDS, decoder_input_ids=torch.tensor([[1, 1500]] * 3))
    assert "\n" not in str(caught.value)


# Translator and pipeline


@pytest.fixture(scope="module", params=["Translator", "pipeline"])
def translate(request: pytest.FixtureRequest, checkpoint: Path) -> Callable[..., list[str]]:
    """Either way from sentences to translations."""
    if request.param == "Translator":
        translator = Translator.from_pretrained(checkpoint, device="cpu")
        return lambda texts, **options: [t.text for t in translator.translate(texts, **options)]
    made = pipeline("translation", model=str(checkpoint), trust_remote_code=True, device="cpu")
    return lambda texts, **options: [a["translation_text"] for a in made(texts, **options)]


@beams
def test_translations(translate: Callable[..., list[str]], num_beams: int) -> None:
    texts, expected = (list(side) for side in zip(*PAIRS, strict=True))
    options: list[dict[str, Any]] = [
        {"encoder_repetition_penalty": 1.01},
        {"encoder_no_repeat_ngram_size": 3},
        {"bad_words_ids": [[470], [479]]},
        {"sequence_bias": [[[475], 9.0]]},
    ]
    for more in options:
        assert translate(texts, num_beams=num_beams, **more) == expected, more
    for more in (
        {"forced_bos_token_id": 479},
        {"prefix_allowed_tokens_fn": lambda row, words: [479]},
    ):
        with pytest.raises(ValueError, match=r"\b479\b") as caught:
            translate(texts[:3], num_beams=num_beams, **more)
        assert "\n" not in str(caught.value)


def test_the_checkpoint_has_such_tokens(checkpoint: Path) -> None:
    config = BahdanauConfig.from_pretrained(checkpoint)
    assert config.vocab_size <= 470
    assert config.encoder_vocab_size >= 480
