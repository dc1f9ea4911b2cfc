"""Scores, alternatives and alignments, against what the model says step by step."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bahdanau_hf import InputError
from bahdanau_hf.inference.translation import make_alignment
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.modeling.pipeline_bahdanau import find_translations, read_attention
from tests.helpers.tiny_checkpoint import PAIRS, SENTENCES, SPELT, encode, make_checkpoint


def log_probability(translator: Translator, source: list[int], target: list[int]) -> float:
    """Sum of the log-probabilities of a target, read to the model alone, in float64."""
    with torch.no_grad():
        logits = translator.model(
            input_ids=torch.tensor([source]), labels=torch.tensor([target])
        ).logits[0]
    return float(logits.double().log_softmax(-1)[range(len(target)), target].sum())


# --- scores and alternatives ---------------------------------------------------------------------


def test_a_greedy_score_is_the_log_probability(translator: Translator) -> None:
    sentences = [s for s in SENTENCES if s.strip()]
    for translation in translator.translate(sentences, return_scores=True):
        source = encode(translator.tokenizer, translation.source)
        outputs = translator.model.generate(
            torch.tensor([source]), return_dict_in_generate=True, output_scores=True
        )
        target = outputs.sequences[0, 1:].tolist()
        oracle = log_probability(translator, source, target)
        assert translation.log_prob == pytest.approx(oracle, abs=1e-4)
        assert translation.score == pytest.approx(oracle / len(target), abs=1e-4)
        steps = translator.model.compute_transition_scores(
            outputs.sequences, outputs.scores, normalize_logits=True
        )
        assert translation.log_prob == pytest.approx(float(steps.sum()), abs=1e-4)


@pytest.mark.parametrize("length_penalty", [0.0, 1.0, 1.7])
def test_scores_are_per_token_whatever_the_search_ranks_by(
    translator: Translator, length_penalty: float
) -> None:
    for source in ("Where is my mother?", PAIRS[12][0]):
        (alternatives,) = translator.translate(
            [source], num_return_sequences=3, length_penalty=length_penalty, return_alignments=True
        )
        for translation in alternatives:
            tokens = translation.alignment.target_tokens
            target = translator.tokenizer.convert_tokens_to_ids(tokens)
            total = log_probability(translator, encode(translator.tokenizer, source), target)
            assert translation.log_prob == pytest.approx(total, abs=1e-3)
            assert translation.score == pytest.approx(total / len(target), abs=1e-4)
        ranks = [
            t.log_prob / len(t.alignment.target_tokens) ** length_penalty for t in alternatives
        ]
        assert ranks == sorted(ranks, reverse=True)
        [greedy] = translator.translate(source, num_beams=1, return_scores=True)
        assert {t.text: t.score for t in alternatives}.get(greedy.text, greedy.score) == (
            pytest.approx(greedy.score, abs=1e-4)
        ), "greedy and beams are on one scale"


@pytest.mark.parametrize("options", [{}, {"num_beams": 2, "length_penalty": 1.5}], ids=str)
def test_what_was_given_has_no_score(translator: Translator, options: Any) -> None:
    begun = translator.tokenizer.convert_tokens_to_ids(["我", "妈"])
    given = torch.tensor([[1, *begun]])
    [found] = translator.translate(
        "Where is my mother?", decoder_input_ids=given, return_scores=True,
        return_alignments=True, **options,
    )  # fmt: skip
    tokens = found.alignment.target_tokens
    target = translator.tokenizer.convert_tokens_to_ids(tokens)
    source = encode(translator.tokenizer, "Where is my mother?")
    with torch.no_grad():
        logits = translator.model(
            input_ids=torch.tensor([source]), labels=torch.tensor([target])
        ).logits[0]
    rest = range(len(begun), len(target))
    total = float(logits.log_softmax(-1)[rest, target[len(begun) :]].sum())
    assert found.log_prob == pytest.approx(total, abs=1e-3)
    assert found.score == pytest.approx(total / len(rest), abs=1e-3)


def test_alternatives_are_sorted_and_distinct(translator: Translator) -> None:
    results = translator.translate(SENTENCES, num_return_sequences=4)
    assert len(results) == len(SENTENCES)
    for sentence, alternatives in zip(SENTENCES, results, strict=True):
        assert 1 <= len(alternatives) <= 4
        assert {t.source for t in alternatives} == {sentence}
        scores = [t.score for t in alternatives]
        assert scores == sorted(scores, reverse=True)
        assert len({t.text for t in alternatives}) == len(alternatives)
    best = translator.translate(SENTENCES, num_beams=4)
    assert [alternatives[0].text for alternatives in results] == [t.text for t in best]
    assert sum(len(alternatives) for alternatives in results) > 3 * len(SENTENCES)


def test_of_alternatives_that_read_the_same_the_best_stays(translator: Translator) -> None:
    """Spelt in bytes, a character is the same text by other tokens."""
    tokenizer = translator.tokenizer
    whole = tokenizer.convert_tokens_to_ids("我")
    spelt = tokenizer.convert_tokens_to_ids([f"<0x{byte:02X}>" for byte in "我".encode()])
    other = tokenizer.convert_tokens_to_ids("他")
    rows = [[1, *spelt, 2], [1, whole, 2, 2, 2], [1, other, 2, 2, 2]]
    outputs = SimpleNamespace(
        sequences=torch.tensor(rows), sequences_scores=torch.tensor([-2.0, -1.0, -1.5])
    )
    model = SimpleNamespace(
        config=translator.model.config,
        device=torch.device("cpu"),
        generate=lambda **_: outputs,
    )
    (found,) = find_translations(model, tokenizer, [[5, 2]], 3, return_scores=True)
    assert [(h.text, h.score, h.ids) for h in found] == [
        ("我", -1.0, [whole, 2]),
        ("他", -1.5, [other, 2]),
    ]


def test_sampling(translator: Translator) -> None:
    torch.manual_seed(0)
    (alternatives,) = translator.translate(
        "Where is my tea?", num_return_sequences=9, do_sample=True, temperature=2.0
    )
    assert len({t.text for t in alternatives}) == len(alternatives) > 1
    log_probs = [t.log_prob for t in alternatives]
    assert log_probs == sorted(log_probs, reverse=True)
    assert all(t.log_prob < t.score < 0 for t in alternatives)


def test_text_is_one_clean_line(translator: Translator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        type(translator.tokenizer),
        "batch_decode",
        lambda _, rows, **__: [" 一\n二\t三\u2028四\x07 "] * len(rows),
    )
    assert translator.translate("Call us.")[0].text == "一 二 三 四"


# --- alignments ----------------------------------------------------------------------------------


def test_alignments_are_what_generate_saw(translator: Translator) -> None:
    sentences = [s for s in SENTENCES if s.strip() and s not in SPELT]
    for translation in translator.translate(sentences, return_alignments=True):
        alignment = translation.alignment
        source = encode(translator.tokenizer, translation.source)
        outputs = translator.model.generate(
            torch.tensor([source]), return_dict_in_generate=True, output_attentions=True
        )
        target = outputs.sequences[0, 1:].tolist()
        seen = torch.cat([step[0][0, 0] for step in outputs.cross_attentions])
        # Tokens are shown without the space before a word.
        names = translator.tokenizer.convert_ids_to_tokens
        assert alignment.source_tokens == [token.strip() or token for token in names(source)]
        assert alignment.target_tokens == [token.strip() or token for token in names(target)]
        np.testing.assert_allclose(alignment.weights, seen.numpy(), atol=1e-5)
        np.testing.assert_allclose(alignment.weights.sum(axis=1), 1, atol=1e-5)
        assert alignment.target_tokens[-1] == "<eos>"
        assert "".join(alignment.target_tokens[:-1]) == translation.text


def test_an_alignment_of_each_alternative(translator: Translator) -> None:
    (alternatives,) = translator.translate(
        [PAIRS[12][0]], num_return_sequences=3, return_alignments=True
    )
    for translation in alternatives:
        assert "".join(translation.alignment.target_tokens[:-1]) == translation.text
        given = translator.align(translation.source, translation.text)
        np.testing.assert_allclose(given.weights, translation.alignment.weights, atol=1e-5)


def test_a_given_target(translator: Translator) -> None:
    own = translator.align("Call us.")
    same = translator.align("Call us.", "联系我们。")
    assert same.target_tokens == own.target_tokens == [*"联系我们。", "<eos>"]
    np.testing.assert_allclose(same.weights, own.weights, atol=1e-6)
    other = translator.align("Call us.", "我爱她。")
    assert other.target_tokens == [*"我爱她。", "<eos>"]
    # Where it looks for the first word depends on the source alone.
    np.testing.assert_allclose(other.weights[0], own.weights[0], atol=1e-6)
    assert abs(other.weights[1:5] - own.weights[1:5]).max() > 1e-3


def test_bytes_of_a_character_are_shown_as_one(translator: Translator) -> None:
    tokenizer, model = translator.tokenizer, translator.model
    source = tokenizer("饕I know.")["input_ids"]
    target = tokenizer("我饕😀")["input_ids"]
    (raw,) = read_attention(model, tokenizer, [source], [target])
    alignment = make_alignment(tokenizer, raw, source, target)
    assert alignment.source_tokens[0] == "饕"
    assert alignment.target_tokens == ["我", "饕", "😀", "<eos>"]
    known = [i if i < model.config.vocab_size else 3 for i in target]
    with torch.no_grad():
        weights = model(
            input_ids=torch.tensor([source]),
            labels=torch.tensor([known]),
            output_attentions=True,
        ).cross_attentions[0][0, 0]
    spelt = [slice(0, 1), slice(1, 4), slice(4, 8), slice(8, 9)]
    rows = torch.stack([weights[rows].mean(0) for rows in spelt])
    expected = torch.cat([rows[:, :3].sum(1, keepdim=True), rows[:, 3:]], dim=1)
    np.testing.assert_allclose(alignment.weights, expected.numpy(), atol=1e-6)
    # Half a character is none.
    halves = source[1:], [*target[1:3], 2]
    (raw,) = read_attention(model, tokenizer, *([ids] for ids in halves))
    broken = make_alignment(tokenizer, raw, *halves)
    assert broken.source_tokens[:2] == broken.target_tokens[:2] == ["\ufffd", "\ufffd"]


def test_nothing_to_align(translator: Translator) -> None:
    for arguments in (("",), (" \n", "我"), ("Call us.", "\u3000")):
        with pytest.raises(InputError, match="blank"):
            translator.align(*arguments)


def test_a_model_without_attention_says_so(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, num_steps=1, use_attention=False)
    translator = Translator.from_pretrained(folder, device="cpu")
    assert len(translator.translate(SENTENCES, max_new_tokens=4)) == len(SENTENCES)
    with pytest.raises(InputError, match="no attention"):
        translator.translate("Call us.", return_alignments=True)
    with pytest.raises(InputError, match="no attention"):
        translator.align("Call us.", "我")
