"""Tools that change a model's modules: what they put there is what is computed, in every use.

Each change has an oracle that the tool has no part in: a plain model with the weights that the
changed modules come to. Gradients are the oracle's too, led back through how those are made.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any

import accelerate
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.testing import assert_close
from torch.utils._pytree import tree_map_only

from tests.helpers.changed_models import (
    ALL,
    CLOSE,
    FACTOR,
    KINDS,
    LINEAR,
    TABLES,
    USES,
    Changed,
    Module,
    build,
    call_method,
    changed,
    compare,
    module_names,
    named_weights,
    plain_model,
    read,
    read_quantised,
    write,
)

# The changes


def with_hooks(model: nn.Module, names: list[str]) -> Changed:
    """What a layer gives, or what a GRU reads, times `FACTOR`."""
    scaled = {}
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, nn.GRU):
            module.register_forward_pre_hook(lambda _, args: (args[0] * FACTOR, *args[1:]))
            scaled[f"{name}.weight_ih_l0"] = module.weight_ih_l0
        else:
            module.register_forward_hook(lambda _, args, output: output * FACTOR)
            scaled |= {f"{name}.{n}": p for n, p in module.named_parameters()}
    return changed(model, lambda: {name: p * FACTOR for name, p in scaled.items()})


def with_own_forward(model: nn.Module, names: list[str]) -> Changed:
    """An instance's `forward` in the place of its class's."""
    scaled = {}
    for name in names:
        module = model.get_submodule(name)
        module.forward = lambda x, _forward=module.forward: _forward(x) * FACTOR
        scaled |= {f"{name}.{n}": p for n, p in module.named_parameters()}
    return changed(model, lambda: {name: p * FACTOR for name, p in scaled.items()})


def with_lora(model: nn.Module, names: list[str]) -> Changed:
    base = named_weights(model)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=names, init_lora_weights=False)
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.5)  # larger ones are beyond float32's few digits

    def merged() -> dict[str, Tensor]:
        weights = dict(base)
        for name in names:
            layer = model.get_submodule(name)
            if isinstance(layer.get_base_layer(), nn.Embedding):
                delta = (layer.lora_embedding_B["default"] @ layer.lora_embedding_A["default"]).t()
            else:
                delta = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            weights[f"{name}.weight"] = base[f"{name}.weight"] + 1.5 * delta
        return weights

    trained = [p for p in adapted.parameters() if p.requires_grad]
    return Changed(functools.partial(call_method, adapted), merged, trained)


class Int8Weight(Tensor):
    """A weight in 8 bits, made as torchao makes its own: no `Parameter`, yet taken for one."""

    values: Tensor
    scale: Tensor

    @staticmethod
    def __new__(cls, values: Tensor, scale: Tensor) -> "Int8Weight":
        made = Tensor._make_wrapper_subclass(cls, values.shape, dtype=scale.dtype)
        made.values, made.scale = values, scale
        return made

    def dequantize(self) -> Tensor:
        return self.values * self.scale

    @classmethod
    def __torch_dispatch__(cls, operator, types, args=(), kwargs=None):
        if operator is torch.ops.aten.detach.default:
            return cls(args[0].values, args[0].scale)
        plain = tree_map_only(cls, cls.dequantize, (args, kwargs or {}))
        return operator(*plain[0], **plain[1])


def with_int8_weights(model: nn.Module, names: list[str]) -> Changed:
    """Weights that are kept in 8 bits and multiplied as they are."""
    for name in names:
        module = model.get_submodule(name)
        weight = module.weight.detach() * FACTOR
        scale = weight.abs().amax(1, keepdim=True) / 127
        values = (weight / scale).round().to(torch.int8)
        module.weight = nn.Parameter(Int8Weight(values, scale), requires_grad=False)
        assert isinstance(module.weight, nn.Parameter)
    return read_quantised(model, names)


class _Method(nn.Module):
    """For `functional_call`, which knows forward alone."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, method: str, **arguments: Any) -> Any:
        return call_method(self.model, method, **arguments)


def with_other_weights(model: nn.Module, names: list[str]) -> Changed:
    """`functional_call` with plain tensors in the parameters' place."""
    others = {
        f"{name}.{n}": (p.detach() * FACTOR).requires_grad_()
        for name in names
        for n, p in model.get_submodule(name).named_parameters()
    }

    def call(method: str, **arguments: Any) -> Any:
        weights = {f"model.{name}": weight for name, weight in others.items()}
        return torch.func.functional_call(
            _Method(model), weights, (method,), arguments, tie_weights=False
        )

    return changed(model, lambda: others)._replace(call=call, trained=list(others.values()))


def with_weight_norm(model: nn.Module, names: list[str]) -> Changed:
    pairs = []
    for name in names:
        module = model.get_submodule(name)
        for weight in [n for n, _ in module.named_parameters() if n.startswith("weight")]:
            parametrizations.weight_norm(module, weight)
            with torch.no_grad():
                module.parametrizations[weight].original0.mul_(FACTOR)
            pairs.append((name, weight))
    return changed(
        model,
        lambda: {f"{n}.{weight}": getattr(model.get_submodule(n), weight) for n, weight in pairs},
    )


def with_pruning(model: nn.Module, names: list[str]) -> Changed:
    pairs = []
    for name in names:
        module = model.get_submodule(name)
        for weight in [n for n, _ in module.named_parameters() if n.startswith("weight")]:
            prune.random_unstructured(module, weight, amount=0.6)
            pairs.append((module, name, weight))
    return changed(
        model,
        lambda: {
            f"{name}.{weight}": getattr(module, f"{weight}_orig")
            * getattr(module, f"{weight}_mask")
            for module, name, weight in pairs
        },
    )


CHANGES: dict[str, tuple[Callable[[nn.Module, list[str]], Changed], Module]] = {
    "hooks": (with_hooks, (nn.Linear, nn.Embedding, nn.GRU)),
    "own forward": (with_own_forward, TABLES),
    "LoRA": (with_lora, TABLES),
    "int8 weights": (with_int8_weights, LINEAR),
    "functional_call": (with_other_weights, ALL),
    "weight_norm": (with_weight_norm, ALL),
    "pruning": (with_pruning, ALL),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CHANGES)
def test_all_modules_changed_at_once(kind: str, name: str) -> None:
    for use in USES:
        before = build(kind)
        model = copy.deepcopy(before)
        change, types = CHANGES[name]
        compare(before, change(model, module_names(model, types)), use, all_at_once=True)


@pytest.mark.slow
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CHANGES)
def test_a_module_changed_alone(kind: str, name: str, use: str) -> None:
    before = build(kind)
    change, types = CHANGES[name]
    for module in module_names(before, types):
        compare(before, change(copy.deepcopy(before), [module]), use, all_at_once=False)


# Changes that a plain model has no weights for


@pytest.mark.filterwarnings("ignore:torch.ao.quantization:DeprecationWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_dynamic_quantisation(kind: str) -> None:
    """Its products round what they read, so the oracle is the plain way through the same modules.

    They give no gradients, so nothing is trained.
    """
    before = build(kind)
    model = torch.ao.quantization.quantize_dynamic(before, {nn.Linear})
    names = [n for n, m in model.named_modules() if type(m).__module__.startswith("torch.ao.")]
    assert names
    fast = functools.partial(call_method, model)
    results = [read(fast), write(fast, 1), write(fast, 3)]
    plain = copy.deepcopy(model)
    plain.set_implementation("reference")
    call = functools.partial(call_method, plain)
    assert_close(results[0], read(call), **CLOSE)
    assert results[1:] == [write(call, 1), write(call, 3)]
    # Whoever reads the weights instead of calling the modules would not see the rounding.
    assert not torch.equal(results[0], read(functools.partial(call_method, before)))
    rounded = {
        f"{name}.weight": model.get_submodule(name).weight().dequantize()
        for name in names
        if hasattr(model.get_submodule(name), "weight")
    }
    close = read(
        functools.partial(call_method, plain_model(before, {**named_weights(before), **rounded}))
    )
    # Whatever is multiplied is rounded to 7 bits, once a layer.
    assert (results[0] - close).norm() < 0.1 * close.norm()


@pytest.mark.parametrize("kind", KINDS)
def test_weights_fetched_when_they_are_needed(kind: str) -> None:
    """Offloaded, parameters hold no numbers; they are there while a module is called."""
    before = build(kind)
    model = accelerate.cpu_offload(copy.deepcopy(before), execution_device="cpu")
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    call, plainly = (functools.partial(call_method, one) for one in (model, before))
    assert_close(read(call), read(plainly), **CLOSE)
    for num_beams in (1, 3):
        assert write(call, num_beams) == write(plainly, num_beams)
