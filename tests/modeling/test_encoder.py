"""The encoder's ways: its modules, our loop, and what GPUs take, here forced on the CPU."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bahdanau_hf.modeling.modeling_bahdanau import BahdanauEncoderOutput
from bahdanau_hf.modeling.recurrence_bahdanau import run_gru
from tests.helpers.batches import SIDES, batch
from tests.helpers.decisive_model import decisive

# One layer


@pytest.mark.parametrize(("length", "batch", "width", "hidden"), [(5, 3, 2, 7), (1, 1, 1, 1)])
def test_run_gru_is_pytorchs(length, batch, width, hidden) -> None:
    layer = nn.GRU(width, hidden, dtype=torch.float64)
    x = torch.randn(length, batch, width, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(length, batch, hidden).double()
    leaves = [x, *layer.parameters()]
    run: list[Callable[[Tensor], Tensor]] = [lambda x: layer(x)[0], lambda x: run_gru(x, layer)]
    expected, actual = (f(x) for f in run)
    assert_close(actual, expected, rtol=1e-12, atol=1e-15)
    grads = [torch.autograd.grad((y * weights).sum(), leaves) for y in (expected, actual)]
    for one, other in zip(*grads, strict=True):
        assert_close(other, one, rtol=1e-11, atol=1e-13)


# The whole encoder


def encode(way: str, encoder: nn.Module, **inputs: Tensor) -> BahdanauEncoderOutput:
    encoder.set_implementation(way)
    return encoder(**inputs, output_hidden_states=True)


@pytest.mark.parametrize("side", SIDES)
def test_the_encoder_by_pytorchs_gru(model, side) -> None:
    """Padding on any side and in both directions, values and gradients, outside training too."""
    encoder = model.model.encoder
    inputs = {name: x for name, x in batch(side).items() if name != "labels"}
    results = [encode(way, encoder, **inputs) for way in ("fast", "reference")]
    grads = []
    for outputs in results:
        values = [*outputs.hidden_states, outputs.final_state]
        total = sum((i + x).square().sum() for i, x in enumerate(values))
        grads.append(torch.autograd.grad(total, list(encoder.parameters())))
    ours, theirs = results
    for one, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert_close(other, one, rtol=1e-12, atol=1e-14)
    assert_close(theirs.final_state, ours.final_state, rtol=1e-12, atol=1e-14)
    assert_close(grads[1], grads[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("way", ["fast", "reference"])
def test_whatever_stands_in_padding(model, way) -> None:
    encoder = model.model.encoder
    inputs = batch("left")
    mask = inputs["attention_mask"]
    embeds = encoder.embed_tokens(inputs["input_ids"]).detach()
    dirty = embeds.masked_fill(mask.unsqueeze(-1) == 0, float("nan"))
    clean, seen = (
        encode(way, encoder, inputs_embeds=x, attention_mask=mask) for x in (embeds, dirty)
    )
    assert torch.equal(clean.last_hidden_state, seen.last_hidden_state)
    assert torch.equal(clean.final_state, seen.final_state)


@pytest.mark.parametrize("implementation", ["fast", "reference"])
def test_narrow_annotations_in_a_wide_model(model, implementation) -> None:
    """What a GPU gives under autocast; on CPUs annotations stay as wide as the weights."""
    model = decisive(model).float()
    inputs = batch()
    labels = inputs.pop("labels")
    wide = model.model.encoder(**inputs)
    narrow = BahdanauEncoderOutput(
        last_hidden_state=wide.last_hidden_state.bfloat16(), final_state=wide.final_state.bfloat16()
    )
    given = {"attention_mask": inputs["attention_mask"]}
    expected = model(encoder_outputs=wide, labels=labels, **given).loss
    model.set_implementation(implementation)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(encoder_outputs=narrow, labels=labels, **given).loss
        for num_beams in (1, 2):
            output = model.generate(
                encoder_outputs=copy.copy(narrow), max_new_tokens=4, num_beams=num_beams, **given
            )
            assert output.shape[0] == 4
    assert loss.item() == pytest.approx(expected.item(), rel=0.1)
    loss.backward()
    assert all(
        p.grad is None or torch.isfinite(p.grad).all() for p in model.model.decoder.parameters()
    )
