"""Our search loops against the library's general one: any model, any batch, any settings."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteriaList
from transformers.generation import BaseStreamer, MaxTimeCriteria

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration
from bahdanau_hf.modeling import generation_bahdanau
from tests.helpers.batches import SOURCES, source
from tests.helpers.decisive_model import decisive
from tests.helpers.strategies import END, START, calls, models


class DoNothing(LogitsProcessor):
    """Changes nothing, but the general loop must be taken to call it."""

    calls = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.calls += 1
        return scores


class Listener(BaseStreamer):
    """Collects what it is told."""

    def __init__(self) -> None:
        self.tokens: list[int] = []

    def put(self, value: Tensor) -> None:
        self.tokens += value.flatten().tolist()

    def end(self) -> None:
        pass


def in_general(model: BahdanauForConditionalGeneration, *args: Any, **options: Any) -> Tensor:
    """Generate in the library's own loop."""
    nothing = DoNothing()
    output = model.generate(*args, **options, logits_processor=LogitsProcessorList([nothing]))
    assert nothing.calls, "the general loop was not taken"
    return output


# Any model and any batch


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_the_same_tokens_as_in_general(data) -> None:
    model = data.draw(models())
    call = data.draw(calls(model.config.vocab_size))
    assert model.generate(**call).tolist() == in_general(model, **call).tolist()


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_leaving_the_batch_early_changes_nothing(data) -> None:
    """With sentences taken out as soon as they end, late, or never."""
    model = data.draw(models())
    call = data.draw(calls(model.config.vocab_size))
    outputs = []
    with pytest.MonkeyPatch.context() as patch:
        for room in (lambda wanted: wanted, generation_bahdanau.batch_room, lambda _: 1 << 30):
            patch.setattr(generation_bahdanau, "batch_room", room)
            outputs.append(model.generate(**call).tolist())
    assert outputs[0] == outputs[1] == outputs[2]


def test_a_batch_has_few_sizes() -> None:
    """Machine code is made for each: powers of two and three quarters of them."""
    rooms = [generation_bahdanau.batch_room(wanted) for wanted in range(1, 129)]
    sizes = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]
    assert sorted(set(rooms)) == sizes
    for wanted, room in enumerate(rooms, start=1):
        assert room == min(size for size in sizes if size >= wanted)


@given(st.lists(st.booleans(), min_size=1, max_size=40).filter(any))
def test_whoever_is_wanted_stays(wanted) -> None:
    """In their order; the others fill the batch up."""
    kept = generation_bahdanau.with_fillers(torch.tensor(wanted))
    room = generation_bahdanau.batch_room(sum(wanted))
    if kept is None:
        assert room >= len(wanted)
        return
    assert len(kept) == room < len(wanted)
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert {i for i, x in enumerate(wanted) if x} <= set(kept.tolist())


# Which loop


@pytest.mark.parametrize(
    ("options", "search"),
    [
        ({}, "greedy_search"),
        ({"eos_token_id": None}, "greedy_search"),
        ({"decoder_input_ids": torch.tensor([[1, 5]] * 4)}, "greedy_search"),
        ({"num_beams": 2}, "beam_search"),
        ({"num_beams": 3, "num_return_sequences": 3}, "beam_search"),
        ({"num_beams": 2, "early_stopping": "never", "length_penalty": 2.0}, "beam_search"),
    ],
)
@pytest.mark.grid
def test_tokens_alone_take_our_loop(model, options, search, own_searches) -> None:
    model.generate(**source("left"), max_new_tokens=3, **options)
    assert own_searches == [search]


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(
    "extra",
    [
        {"return_dict_in_generate": True},
        {"return_dict_in_generate": True, "output_scores": True},
        {"return_dict_in_generate": True, "output_logits": True},
        {"return_dict_in_generate": True, "output_attentions": True},
        {"return_dict_in_generate": True, "output_hidden_states": True},
        {"logits_processor": LogitsProcessorList([DoNothing()])},
        {"stopping_criteria": StoppingCriteriaList([MaxTimeCriteria(60)])},
        {"no_repeat_ngram_size": 2},
        {"min_new_tokens": 2},
        {"forced_eos_token_id": END},
        {"prefix_allowed_tokens_fn": lambda batch, ids: list(range(13))},
    ],
    ids=lambda extra: [*extra][-1],
)
def test_whatever_needs_more_takes_the_librarys(tiny_model, extra, num_beams, own_searches) -> None:
    model = decisive(tiny_model())
    model.generate(**source("left"), max_new_tokens=4, num_beams=num_beams, **extra)
    assert own_searches == []


def test_a_streamer_hears_every_token(tiny_model, own_searches) -> None:
    model, listener = decisive(tiny_model()), Listener()
    ids = torch.tensor([SOURCES[2]])
    output = model.generate(ids, max_new_tokens=6, streamer=listener)
    assert own_searches == []
    assert listener.tokens == output[0].tolist()
    assert model.generate(ids, max_new_tokens=6).tolist() == output.tolist()
    assert own_searches == ["greedy_search"]


# Number formats


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.grid
def test_lower_precision_runs_in_our_loop(model, dtype, num_beams, own_searches) -> None:
    """At the first word its choice is as good as the exact one, up to its rounding."""
    decisive(model)
    exact = model.generate(
        **source("left"), max_new_tokens=1, return_dict_in_generate=True, output_logits=True
    ).logits[0]
    output = model.to(dtype).generate(**source("left"), max_new_tokens=5, num_beams=num_beams)
    assert len(own_searches) == 1
    assert output.shape[0] == len(SOURCES)
    assert output[:, 0].tolist() == [START] * 4
    assert ((output >= 0) & (output < model.config.vocab_size)).all()
    if num_beams == 1:
        chosen = exact.gather(1, output[:, 1:2])[:, 0]
        slack = 0.1 if dtype == torch.bfloat16 else 0.02 if dtype == torch.float16 else 1e-5
        assert (chosen >= exact.amax(1) - slack * exact.abs().amax(1)).all()


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_wide_model_in_float32(num_beams, own_searches, monkeypatch) -> None:
    """Wide enough for oneDNN's products; finished sentences leave the batch, which shrinks."""
    torch.manual_seed(0)
    config = BahdanauConfig(
        vocab_size=701, embedding_size=96, hidden_size=160, initializer_range=2.0
    )
    model = BahdanauForConditionalGeneration(config).eval()
    ids = torch.randint(4, 701, (23, 6))
    ends = [END, *range(4, 700, 5)]
    options = {"max_new_tokens": 40, "num_beams": num_beams, "eos_token_id": ends}
    monkeypatch.setattr(generation_bahdanau, "PIECE", 4)
    monkeypatch.setattr(generation_bahdanau, "LONG", 0)
    rows = []
    step = generation_bahdanau.Beams.step
    monkeypatch.setattr(
        generation_bahdanau.Beams,
        "step",
        lambda beams, tokens: rows.append(len(tokens)) or step(beams, tokens),
    )
    output = model.generate(ids, **options)
    assert rows[0] == 23, "beams begin alike: one row serves all of a sentence's"
    rows = rows[num_beams > 1 :]
    assert rows[0] == 23 * num_beams
    assert rows == sorted(rows, reverse=True)
    rooms = {generation_bahdanau.batch_room(sentences) for sentences in range(1, 24)}
    assert {size // num_beams for size in rows} <= {23, *rooms}
    assert len(set(rows)) > 3
    last = torch.isin(output, torch.tensor(ends)).long().argmax(dim=1)
    assert len(set(last.tolist())) > 3, "sentences must end at different steps for this to count"
    assert len(own_searches) == 1
    assert output.tolist() == in_general(model, ids, **options).tolist()


# The largest numbers


@pytest.mark.parametrize("k", [1, 2, 10])
@pytest.mark.parametrize("width", [128 * 40, 128 * 40 + 1, 128 * 41 - 1, 20, 10])
def test_the_largest_are_topks(width, k) -> None:
    for rows in (1, 64):
        x = torch.randn(rows, width)
        x[:, ::7] -= 1e9
        values, columns = generation_bahdanau._largest(x, k)
        expected = x.topk(k)
        assert torch.equal(values, expected.values)
        assert torch.equal(columns, expected.indices)


def test_the_largest_stand_anywhere() -> None:
    """At the ends of pieces, all in one piece, and in what is left behind the last whole one."""
    for columns in ([0, 127, 128, 5119, 5120, 5125], range(256, 262), range(5120, 5126)):
        x = torch.full((9, 5126), -2.0)
        order = [columns[i] for i in torch.randperm(6)]
        x[:, order] = torch.arange(6.0, 0, -1)
        assert generation_bahdanau._largest(x, 6)[1].tolist() == [order] * 9
        ties = generation_bahdanau._largest((x > 0).float(), 6)[1]
        assert ties.sort(dim=1).values.tolist() == [sorted(columns)] * 9
