"""Greedy and beam search without the general loop: the library's tokens, and the best there are."""

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bahdanau_hf import BahdanauForConditionalGeneration
from tests.helpers.batches import SIDES, SOURCES, batch, source
from tests.helpers.decisive_model import decisive
from tests.helpers.oracles import ScalarModel


def both_ways(model: BahdanauForConditionalGeneration, **options: Any) -> tuple[Tensor, Tensor]:
    """The output of our own loop, and of the library's, which a wish for more output calls in."""
    ours = model.generate(**options)
    librarys = model.generate(**options, return_dict_in_generate=True).sequences
    return ours, librarys


# Greedy


@pytest.mark.parametrize("side", SIDES)
def test_greedy_is_the_oracles(model, side, own_searches) -> None:
    decisive(model)
    oracle = ScalarModel(model)
    outputs = model.generate(**source(side), max_new_tokens=7)
    assert own_searches == ["greedy_search"]
    for row, words in zip(outputs.tolist(), SOURCES, strict=True):
        expected = oracle.greedy(oracle.encode(words), 7)
        assert row[: len(expected)] == expected
        assert not any(row[len(expected) :]), "padding stands behind the end"


@pytest.mark.parametrize("max_new_tokens", [1, 2, 9])
def test_greedy_is_the_librarys(model, max_new_tokens) -> None:
    decisive(model)
    prefix = torch.tensor([[1, 5, 3], [1, 2, 2], [1, 0, 4], [1, 12, 12]])
    for more in ({}, {"decoder_input_ids": prefix}, {"eos_token_id": [2, 5, 7]}):
        ours, librarys = both_ways(model, **source(), max_new_tokens=max_new_tokens, **more)
        assert ours.tolist() == librarys.tolist()


def test_greedy_without_an_end(tiny_model) -> None:
    model = decisive(tiny_model(eos_token_id=None))
    ours, librarys = both_ways(model, **source(), max_new_tokens=9)
    assert ours.shape == (4, 10)
    assert ours.tolist() == librarys.tolist()


# Beams


@pytest.mark.parametrize("length_penalty", [-1.0, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("early_stopping", [True, False, "never"])
@pytest.mark.grid
def test_beams_are_the_librarys(tiny_model, length_penalty, early_stopping, own_searches) -> None:
    """Over many models, widths and lengths: the same sequences in the same order."""
    # Seeds for which the rules of `early_stopping` differ, some of them.
    cases = [(0, 14), (1, 4), (3, 1), (6, 8), (10, 8)]
    for (seed, max_new_tokens), num_beams in itertools.product(cases, (2, 3, 5)):
        torch.manual_seed(seed)
        model = decisive(tiny_model(readout="deep" if seed % 2 else "linear"))
        ours, librarys = both_ways(
            model,
            **source(SIDES[seed % 3]),
            num_beams=num_beams,
            num_return_sequences=1 + seed % num_beams,
            max_new_tokens=max_new_tokens,
            length_penalty=length_penalty,
            early_stopping=early_stopping,
        )
        assert ours.tolist() == librarys.tolist(), (seed, num_beams)
    assert own_searches == ["beam_search"] * 15


def test_beams_of_every_kind_of_model(model) -> None:
    decisive(model)
    prefix = torch.tensor([[1, 5, 3], [1, 4, 9], [1, 3, 4], [1, 12, 12]])
    for more in ({}, {"decoder_input_ids": prefix}, {"eos_token_id": [2, 5, 7]}):
        ours, librarys = both_ways(
            model, **source(), num_beams=3, num_return_sequences=2, max_new_tokens=7, **more
        )
        assert ours.tolist() == librarys.tolist()


@pytest.mark.parametrize("num_ends", [2, 5, 8])
def test_beams_with_many_ends(tiny_model, num_ends) -> None:
    """A beam may end by any of several tokens at once, and K must still be left to go on."""
    for seed in range(4):
        torch.manual_seed(seed)
        model = decisive(tiny_model())
        ours, librarys = both_ways(
            model,
            **source(),
            num_beams=4,
            num_return_sequences=4,
            max_new_tokens=6,
            eos_token_id=list(range(2, 2 + num_ends)),
        )
        assert ours.tolist() == librarys.tolist(), seed


def test_beams_without_an_end(tiny_model) -> None:
    model = decisive(tiny_model(eos_token_id=None))
    ours, librarys = both_ways(model, **source(), num_beams=3, max_new_tokens=5)
    assert ours.shape == (4, 6)
    assert ours.tolist() == librarys.tolist()


@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_a_beam_as_wide_as_the_tree_finds_the_best(tiny_model, length_penalty) -> None:
    """Against a list of all outputs of at most three of five words."""
    for seed in range(3):
        torch.manual_seed(seed)
        model = decisive(tiny_model(vocab_size=5, readout="deep"))
        oracle = ScalarModel(model)
        options = {
            "num_beams": 25,
            "num_return_sequences": 6,
            "max_new_tokens": 3,
            "length_penalty": length_penalty,
            "early_stopping": "never",
        }
        ours = model.generate(**source("left"), **options).view(4, 6, -1).tolist()
        detailed = model.generate(
            **source("left"), **options, return_dict_in_generate=True, output_scores=True
        )
        scores = detailed.sequences_scores.view(4, 6)
        for i, words in enumerate(SOURCES):
            best = oracle.all_translations(oracle.encode(words), 3, length_penalty)[:6]
            assert [row[: len(x)] for row, (_, x) in zip(ours[i], best, strict=True)] == [
                x for _, x in best
            ]
            assert_close(scores[i].tolist(), [score for score, _ in best], rtol=1e-5, atol=1e-5)


def test_wider_beams_find_no_worse(tiny_model) -> None:
    """A property of the whole batch's scores, and one beam is the greedy search."""
    model = decisive(tiny_model())
    options = {"max_new_tokens": 6, "length_penalty": 0.0}
    detailed = {"return_dict_in_generate": True, "output_scores": True}
    greedy = model.generate(**source(), **options, **detailed)
    steps = model.compute_transition_scores(greedy.sequences, greedy.scores, normalize_logits=True)
    totals = [steps.masked_fill(greedy.sequences[:, 1:] == 0, 0.0).sum(1)]
    for num_beams in (8, 40):
        outputs = model.generate(**source(), **options, **detailed, num_beams=num_beams)
        totals.append(outputs.sequences_scores)
    assert (totals[1] >= totals[0] - 1e-5).all()
    assert (totals[2] >= totals[1] - 1e-5).all()


# Padding, batches and number formats


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.grid
def test_a_batch_is_its_sentences(model, num_beams, side) -> None:
    decisive(model)
    options = {"num_beams": num_beams, "max_new_tokens": 8}
    together = model.generate(**source(side), **options)
    for i, words in enumerate(SOURCES):
        alone = model.generate(torch.tensor([words]), **options)[0]
        end = (alone[1:] == 2).nonzero()
        length = int(end[0]) + 2 if len(end) else len(alone)
        assert together[i, :length].tolist() == alone[:length].tolist()


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.grid
def test_number_formats(model, num_beams, dtype) -> None:
    decisive(model).to(dtype)
    outputs = model.generate(**source(), num_beams=num_beams, max_new_tokens=5)
    assert outputs.shape[0] == 4
    if dtype == torch.float32:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            cast = model.generate(**source(), num_beams=num_beams, max_new_tokens=5)
        assert cast.shape[0] == 4


@pytest.mark.parametrize("num_beams", [1, 2])
def test_nothing_is_left_over_from_the_last_call(tiny_model, num_beams) -> None:
    model = decisive(tiny_model())
    options = {"num_beams": num_beams, "max_new_tokens": 6}
    first = model.generate(**source(), **options)
    model.generate(torch.tensor([[7, 7, 2]]), **options)
    assert torch.equal(model.generate(**source(), **options), first)
    labels = batch()["labels"]
    model.train()(**source(), labels=labels).loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter -= 0.5 * parameter.grad
    ours, librarys = both_ways(model.eval(), **source(), **options)
    assert ours.tolist() == librarys.tolist(), "changed weights must be seen"


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_limit_that_counts_the_start_too(tiny_model, num_beams, monkeypatch) -> None:
    """Nor does the library repeat for the beams what the encoder has read."""
    model = decisive(tiny_model())
    expected = model.generate(**source(), num_beams=num_beams, max_new_tokens=6)
    librarys = both_ways(model, **source(), num_beams=num_beams, max_length=7)[1]
    monkeypatch.setattr(type(model), "_expand_inputs_for_generation", None)
    found = model.generate(**source(), num_beams=num_beams, max_length=7)
    assert found.tolist() == expected.tolist() == librarys.tolist()


@pytest.mark.parametrize(
    "more",
    [
        {"output_scores": True, "return_dict_in_generate": True},
        {"do_sample": True},
        {"bad_words_ids": [[5]]},
        {"repetition_penalty": 1.5},
        {"max_time": 60.0},
        {"use_cache": False},
        {"decoder_attention_mask": torch.ones(4, 1).long()},
    ],
    ids=lambda more: next(iter(more)),
)
@pytest.mark.parametrize("num_beams", [1, 2])
def test_what_is_special_goes_to_the_library(tiny_model, more, num_beams, own_searches):
    tiny_model().generate(**source(), max_new_tokens=3, num_beams=num_beams, **more)
    assert own_searches == []
