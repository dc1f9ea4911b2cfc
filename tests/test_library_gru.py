"""The encoder by PyTorch's own GRU, which GPUs take: here that way is forced, on the CPU."""

import copy

import pytest
import torch
from batches import SIDES, batch
from test_decoding import decisive
from torch import Tensor, nn
from torch.testing import assert_close

from bahdanau_hf import encoder_bahdanau
from bahdanau_hf.encoder_bahdanau import BahdanauEncoderOutput
from bahdanau_hf.recurrence_bahdanau import library_gru, run_gru


@pytest.fixture
def forced(monkeypatch) -> list[bool]:
    """Whether each call was told to keep what gradients need."""
    kept: list[bool] = []
    gru = torch.gru

    def recorded(*args) -> tuple[Tensor, Tensor]:
        kept.append(args[6])
        return gru(*args)

    monkeypatch.setattr(torch, "gru", recorded)
    return kept


def by_the_library(encoder: nn.Module, monkeypatch, **inputs: Tensor) -> BahdanauEncoderOutput:
    with monkeypatch.context() as patch:
        patch.setattr(encoder_bahdanau, "run_gru", lambda x, layer, *_: library_gru(x, layer))
        return encoder(**inputs, output_hidden_states=True)


@pytest.mark.parametrize("side", SIDES)
def test_it_is_our_loop(model, side, forced, monkeypatch) -> None:
    """Padding on any side and in both directions, values and gradients, outside training too."""
    encoder = model.model.encoder
    inputs = {name: x for name, x in batch(side).items() if name != "labels"}
    ours = encoder(**inputs, output_hidden_states=True)
    assert forced == []
    theirs = by_the_library(encoder, monkeypatch, **inputs)
    layers = len(encoder.forward_layers) + len(encoder.backward_layers)
    assert forced == [True] * layers, "a model in evaluation has gradients as well"
    grads = []
    for outputs in (ours, theirs):
        results = [*outputs.hidden_states, outputs.final_state]
        total = sum((i + x).square().sum() for i, x in enumerate(results))
        grads.append(torch.autograd.grad(total, list(encoder.parameters())))
    for one, other in zip(ours.hidden_states, theirs.hidden_states, strict=True):
        assert_close(other, one, rtol=1e-12, atol=1e-14)
    assert_close(theirs.final_state, ours.final_state, rtol=1e-12, atol=1e-14)
    assert_close(grads[1], grads[0], rtol=1e-9, atol=1e-11)
    with torch.no_grad():
        by_the_library(encoder, monkeypatch, **inputs)
    assert forced[-1] is False


def test_whatever_stands_in_padding(model, forced, monkeypatch) -> None:
    encoder = model.model.encoder
    inputs = batch("left")
    mask = inputs["attention_mask"]
    embeds = encoder.embed_tokens(inputs["input_ids"]).detach()
    dirty = embeds.masked_fill(mask.unsqueeze(-1) == 0, float("nan"))
    results = [
        by_the_library(encoder, monkeypatch, inputs_embeds=x, attention_mask=mask)
        for x in (embeds, dirty)
    ]
    assert forced
    assert torch.equal(results[0].last_hidden_state, results[1].last_hidden_state)
    assert torch.equal(results[0].final_state, results[1].final_state)


def test_half_weights() -> None:
    layer, x = nn.GRU(5, 7), torch.randn(4, 3, 5)
    exact = run_gru(x, layer)
    half = library_gru(x.bfloat16(), copy.deepcopy(layer).bfloat16())
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("implementation", ["fast", "graph"])
def test_narrow_annotations_in_a_wide_model(model, implementation) -> None:
    """What cuDNN gives under autocast; on CPUs annotations stay as wide as the weights."""
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
