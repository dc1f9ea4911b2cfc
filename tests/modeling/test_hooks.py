"""A hook anywhere in the model is asked in every use, and what it gives is what goes on."""

import copy
import functools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.testing import assert_close

from bahdanau_hf import BahdanauForConditionalGeneration
from tests.helpers.changed_models import (
    ALL,
    CLOSE,
    KINDS,
    build,
    call_method,
    module_names,
    read,
    write,
)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_beams", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_a_hook_on_any_module_is_asked(kind: str, num_beams: int) -> None:
    """Also on those that hold others; a cell, at each step."""
    skipped = (nn.ModuleList, BahdanauForConditionalGeneration)  # `generate` is not a forward
    names = [n for n, m in build(kind).named_modules() if n and not isinstance(m, skipped)]
    names.remove("model")  # the encoder and the decoder may be asked without it
    for name in names:
        model, asked = build(kind), []
        expected = write(functools.partial(call_method, model), num_beams)
        module = model.get_submodule(name)
        module.register_forward_hook(lambda *_, asked=asked: asked.append(1))
        assert write(functools.partial(call_method, model), num_beams) == expected, name
        assert asked, name
        if isinstance(module, nn.GRUCell):
            assert len(asked) >= max(map(len, expected)) - 1


@pytest.mark.parametrize("num_beams", [1, 3])
@pytest.mark.parametrize(
    "name", ["decoder.transition", "decoder.layers.0", "decoder.attention", "decoder.readout"]
)
def test_a_hook_changes_what_follows(name: str, num_beams: int) -> None:
    before = build("conditional")
    model = copy.deepcopy(before)

    def halve(_: nn.Module, args: tuple, output: Any) -> Any:
        return (output[0] / 2, *output[1:]) if isinstance(output, tuple) else output / 2

    model.model.get_submodule(name).register_forward_hook(halve)
    call, unchanged = (functools.partial(call_method, one) for one in (model, before))
    logits, words = read(call), write(call, num_beams)
    assert not torch.allclose(logits, read(unchanged), atol=1e-3)
    model.set_implementation("reference")
    assert_close(logits, read(call), **CLOSE)
    assert words == write(call, num_beams)


def test_which_way_is_taken_and_why() -> None:
    model = build("conditional")
    assert model.chosen_implementation().name == "fast"
    hook = model.model.decoder.attention.query.register_forward_hook(lambda *_: None)
    chosen = model.chosen_implementation()
    assert chosen.name == "reference"
    assert chosen.reason
    assert "\n" not in chosen.reason
    hook.remove()
    assert model.chosen_implementation().name == "fast"
    parametrizations.weight_norm(model.model.decoder.layers[0], "weight_hh")
    assert model.chosen_implementation().name == "reference"
    parametrize.remove_parametrizations(model.model.decoder.layers[0], "weight_hh")
    assert model.chosen_implementation().name == "fast"
    model.set_implementation("reference")
    assert model.chosen_implementation().name == "reference"


def test_a_hook_for_all_modules_is_asked() -> None:
    model, asked = build("conditional"), set()
    hook = nn.modules.module.register_module_forward_hook(lambda module, *_: asked.add(id(module)))
    try:
        write(functools.partial(call_method, model), 1)
    finally:
        hook.remove()
    names = module_names(model, ALL)
    assert not [name for name in names if id(model.get_submodule(name)) not in asked]
