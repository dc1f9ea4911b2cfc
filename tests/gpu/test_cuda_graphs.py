"""Searches on memory that stays in place: the ordinary ones' tokens, whatever came before.

What a CUDA graph does, a recorder imitates here: the operations of one run are done again on the
same memory, with all that Python chose in between left as it was.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bahdanau_hf import BahdanauForConditionalGeneration
from bahdanau_hf.gpu import cuda_graphs
from bahdanau_hf.modeling.matmul_bahdanau import product_dtype
from bahdanau_hf.modeling.modeling_bahdanau import BahdanauDecoder, BahdanauEncoderOutput
from tests.helpers.batches import SOURCES, source
from tests.helpers.decisive_model import decisive
from tests.helpers.recorder import Recorder
from tests.helpers.strategies import calls, models

pytestmark = pytest.mark.usefixtures("ways_of_gpus")


@pytest.fixture
def recorded(monkeypatch) -> list[str]:
    """Searches are recorded when they come again, once each; the kinds recorded."""
    kinds: list[str] = []

    def capture(search) -> tuple[Callable[[], None], Callable[[], None]]:
        kinds.append(type(search).__name__)
        search.begin()
        search.step()
        bodies = []
        for body in (search.begin, search.step):
            with Recorder() as recorder:
                body()
            bodies.append(recorder.replay)
        return bodies[0], bodies[1]

    monkeypatch.setattr(cuda_graphs, "capture", capture)
    return kinds


def both(model: BahdanauForConditionalGeneration, **call: Any) -> tuple[list, list]:
    """The tokens of the ordinary search and of the one on static memory."""
    outputs = []
    for implementation in ("fast", "cuda"):
        model.set_implementation(implementation)
        outputs.append(model.generate(**call).tolist())
    return outputs[0], outputs[1]


def check_any_model_and_call(data) -> None:
    model = data.draw(models())
    for _ in range(2):
        ordinary, static = both(model, **data.draw(calls(model.config.vocab_size)))
        assert static == ordinary


@settings(deadline=None, max_examples=8)
@given(st.data())
def test_any_model_and_call_gives_the_same_tokens(data) -> None:
    check_any_model_and_call(data)


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(st.data())
def test_many_models_and_calls_give_the_same_tokens(data) -> None:
    check_any_model_and_call(data)


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.grid
def test_replayed_searches_give_the_same_tokens(model, num_beams, recorded) -> None:
    """Of other sentences, in other numbers and lengths, than those they were recorded with."""
    decisive(model)
    options = {"num_beams": num_beams, "num_return_sequences": num_beams}
    sizes = [(SOURCES, 9), (SOURCES[1:4], 12), (SOURCES[::-1], 3), ([SOURCES[2]] * 3, 12)]
    for sentences, most in sizes:
        ordinary, static = both(model, **source(rows=sentences), max_new_tokens=most, **options)
        assert static == ordinary
    assert recorded == ["GreedySearch" if num_beams == 1 else "BeamSearch"]


@pytest.mark.parametrize("rules", [(1.0, "never"), (0.5, True), (-1.0, False), (2.0, "never")])
def test_replayed_rules_of_beam_search(tiny_model, rules, recorded) -> None:
    model = decisive(tiny_model(decoder_layers=2))
    options = dict(zip(("length_penalty", "early_stopping"), rules, strict=True))
    for most in (4, 11):
        call = source() | {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": most}
        ordinary, static = both(model, **call, **options)
        assert static == ordinary
    assert recorded == ["BeamSearch"]


@pytest.mark.parametrize("seed", range(3))
def test_a_sentence_that_is_done_stays_as_it_is(tiny_model, seed) -> None:
    """Where the first K ends are enough, later ones could be better."""
    torch.manual_seed(seed)
    call = source() | {"max_new_tokens": 11, "num_beams": 3, "num_return_sequences": 3}
    call |= {"early_stopping": True, "eos_token_id": [2, 5, 7, 9]}
    ordinary, static = both(decisive(tiny_model()), **call)
    assert static == ordinary


@pytest.mark.parametrize("num_beams", [1, 2])
def test_the_reference_takes_the_equations_and_the_librarys_loop(
    tiny_model, num_beams, monkeypatch
) -> None:
    model, calls = decisive(tiny_model(decoder_layers=2)), []
    call = source() | {"max_new_tokens": 6, "num_beams": num_beams}
    expected = model.generate(**call)
    decode = BahdanauDecoder.decode
    monkeypatch.setattr(BahdanauDecoder, "decode", lambda *args: calls.append(0) or decode(*args))
    model.set_implementation("reference")
    assert torch.equal(model.generate(**call), expected)
    assert len(calls) >= expected.shape[1] - 1


@pytest.mark.parametrize("num_beams", [1, 2])
def test_changed_weights_are_seen(tiny_model, num_beams, recorded) -> None:
    """In place by the graph as it is; in another place, it is recorded again."""
    model, seen = decisive(tiny_model(readout="deep")), []
    call = source() | {"max_new_tokens": 8, "num_beams": num_beams}

    def check(num_recorded: int) -> None:
        for _ in range(2):
            ordinary, static = both(model, **call)
            assert static == ordinary
        assert ordinary not in seen
        seen.append(ordinary)
        assert len(recorded) == num_recorded

    check(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.7 * torch.randn_like(parameter)
    check(1)
    model.load_state_dict(
        {name: torch.randn_like(x) for name, x in model.state_dict().items()}, assign=True
    )
    check(2)


def test_a_call_in_inference_mode_leaves_no_trace(tiny_model, recorded) -> None:
    model = decisive(tiny_model())
    with torch.inference_mode():
        first = both(model, **source(), max_new_tokens=5)
    second = both(model, **source(), max_new_tokens=5)
    assert first[0] == first[1] == second[0] == second[1]


def test_searches_are_kept_but_not_copied(tiny_model, recorded, monkeypatch) -> None:
    monkeypatch.setattr(cuda_graphs, "MOST_SEARCHES", 2)
    model = decisive(tiny_model())
    model.set_implementation("cuda")
    for num_beams in (1, 2, 1, 3, 1, 2):
        for _ in range(3):  # as it is, recorded, replayed
            model.generate(**source(), num_beams=num_beams, max_new_tokens=3)
    assert recorded == ["GreedySearch"] + 3 * ["BeamSearch"]
    other = copy.deepcopy(model)
    assert other.implementation == "cuda"
    with torch.no_grad():
        other.lm_head.bias += torch.randn(13) * 9
    ordinary, static = both(other, **source(), max_new_tokens=6)
    assert static == ordinary
    assert model.state_dict().keys() == other.state_dict().keys()


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.grid
def test_number_formats(model, dtype, num_beams, recorded) -> None:
    """The first token is the ordinary one where no other is nearly as likely."""
    decisive(model).to(dtype)
    ordinary, static = both(model, **source(), num_beams=num_beams, max_new_tokens=1)
    assert static == ordinary


@pytest.mark.parametrize("num_beams", [1, 3])
def test_autocast_narrows_the_products_alone(model, num_beams, recorded) -> None:
    """Of wide annotations and of narrow ones, which cuDNN gives there; the states stay wide."""
    decisive(model).float().set_implementation("cuda")
    inputs = source()
    wide = model.model.encoder(**inputs)
    narrow = BahdanauEncoderOutput(
        last_hidden_state=wide.last_hidden_state.bfloat16(), final_state=wide.final_state.bfloat16()
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = product_dtype(model.device, torch.float32)  # as far as this processor can
        for outputs in (wide, narrow):
            output = model.generate(
                encoder_outputs=copy.copy(outputs), attention_mask=inputs["attention_mask"],
                num_beams=num_beams, max_new_tokens=6,
            )  # fmt: skip
            assert ((output >= 0) & (output < 13)).all()
    kept = model.model.decoder._searches._kept
    assert [plan.dtype for plan in kept] == [torch.float32, torch.bfloat16]
    for search, _ in kept.values():
        beams = search.beams
        assert beams.states.dtype == beams.stepper.dtype == torch.float32
        laid_out = [cell.cell_contents for p in beams.layout.recurrent for cell in p.__closure__]
        assert {x.dtype for x in laid_out if isinstance(x, torch.Tensor)} == {expected}


def test_it_stops_once_all_have_ended(tiny_model, monkeypatch) -> None:
    model, steps = decisive(tiny_model()), []
    model.set_implementation("cuda")
    with torch.no_grad():
        model.lm_head.bias[2] += 1e3
    step = cuda_graphs.GreedySearch.step
    monkeypatch.setattr(
        cuda_graphs.GreedySearch, "step", lambda search: steps.append(0) or step(search)
    )
    output = model.generate(**source(), max_new_tokens=500)
    assert output.shape == (4, 2)
    assert len(steps) <= cuda_graphs.ASK_EVERY


def test_what_begins_with_more_than_one_token_goes_the_ordinary_way(tiny_model, recorded) -> None:
    model = decisive(tiny_model())
    prefix = torch.tensor([[1, 5, 6]] * 4)
    ordinary, static = both(model, **source(), decoder_input_ids=prefix, max_new_tokens=4)
    assert static == ordinary
    assert recorded == []
