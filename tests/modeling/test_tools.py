"""Tools that change a model's modules: what they put there is what is computed, in every use.

Each change has an oracle that the tool has no part in: a plain model with the weights that the
changed modules come to. Gradients are the oracle's too, led back through how those are made.
"""

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import accelerate
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torch.testing import assert_close
from torch.utils._pytree import tree_map_only

from bahdanau_hf import BahdanauForConditionalGeneration
from tests.conftest import make_config
from tests.helpers.batches import SOURCES, batch, pad

KINDS: dict[str, dict[str, Any]] = {
    "two-way-deep-tied": {"readout": "deep", "tie_word_embeddings": True},
    "one-way-layers": {"bidirectional_encoder": False, "encoder_layers": 2, "decoder_layers": 2},
    "plain": {"use_attention": False},
}
FACTOR = -2.0
CLOSE = {"rtol": 1e-4, "atol": 2e-5}  # float32, summed in another order

Module = tuple[type[nn.Module], ...]
LINEAR: Module = (nn.Linear,)
TABLES: Module = (nn.Linear, nn.Embedding)
ALL: Module = (nn.Linear, nn.Embedding, nn.GRU, nn.GRUCell)


def build(kind: str) -> BahdanauForConditionalGeneration:
    """A tiny float32 model, always the same, so that changes show in its words."""
    with torch.random.fork_rng():
        torch.manual_seed(24)
        model = BahdanauForConditionalGeneration(make_config(**KINDS[kind])).eval()
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
        model.lm_head.bias[model.config.eos_token_id] -= 2
        if model.config.use_attention:
            model.model.decoder.attention.score.weight.mul_(4)
    return model


def module_names(model: nn.Module, types: Module) -> list[str]:
    return [name for name, module in model.named_modules() if isinstance(module, types)]


def named_weights(model: nn.Module) -> dict[str, Tensor]:
    return dict(model.named_parameters(remove_duplicate=False))


class Changed(NamedTuple):
    """A model that a tool has been at.

    `call` runs one of its methods, by name; `weights` are, by a plain model's names, those that its
    modules come to, computed anew from what is trained.
    """

    call: Callable[..., Any]
    weights: Callable[[], dict[str, Tensor]]
    trained: list[Tensor]


def call_method(model: nn.Module, method: str, **arguments: Any) -> Any:
    return model(**arguments) if method == "forward" else getattr(model, method)(**arguments)


def changed(model: nn.Module, made: Callable[[], dict[str, Tensor]]) -> Changed:
    """What `made` does not say is a parameter of the model as before."""
    before = {name: p for name, p in named_weights(model).items() if "parametriz" not in name}
    trained = [p for p in model.parameters() if p.requires_grad and p.is_floating_point()]
    call = functools.partial(call_method, model)
    return Changed(call, lambda: {**before, **made()}, trained)


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
                parameter.normal_()

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


def read_quantised(model: nn.Module, names: list[str]) -> Changed:
    """What is left in floating point is trained; it is what the others' gradients go through."""
    weights = {f"{name}.weight": model.get_submodule(name).weight for name in names}
    trained = [p for p in model.parameters() if type(p) is nn.Parameter]
    made = changed(model, lambda: {n: w.dequantize().detach() for n, w in weights.items()})
    return made._replace(trained=trained)


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

# The uses


def source() -> dict[str, Tensor]:
    ids, mask = pad(SOURCES, "right")
    return {"input_ids": ids, "attention_mask": mask}


def read(call: Callable[..., Any]) -> Tensor:
    """Logits `(B, T, V)` of known words."""
    words, _ = pad([[1, 6, 12, 3], [1, 7], [1, 4, 4, 9, 5], [1, 10, 5]], "right")
    return call("forward", **source(), decoder_input_ids=words).logits.detach()


def write(call: Callable[..., Any], num_beams: int) -> list[list[int]]:
    options = {"num_beams": num_beams, "num_return_sequences": num_beams, "max_new_tokens": 8}
    return call("generate", **source(), **options).tolist()


def loss_of(call: Callable[..., Any], skip_logits: bool) -> Tensor:
    return call("forward", **batch(), skip_logits=skip_logits, label_smoothing=0.1).loss


def plain_model(
    before: BahdanauForConditionalGeneration, weights: dict[str, Tensor]
) -> BahdanauForConditionalGeneration:
    """The plain way through a plain model with these weights, none of them tied."""
    oracle = copy.deepcopy(before)
    oracle.lm_head.weight = nn.Parameter(oracle.lm_head.weight.detach().clone())
    with torch.no_grad():
        for name, parameter in oracle.named_parameters():
            parameter.copy_(weights[name])
    oracle.set_implementation("reference")
    return oracle


def compare(
    before: BahdanauForConditionalGeneration, change: Changed, use: str, *, all_at_once: bool
) -> None:
    """The changed model does what a plain one does that has its weights, and what it did not."""
    oracle = plain_model(before, {name: w.detach() for name, w in change.weights().items()})
    plainly = functools.partial(call_method, oracle)
    if use == "forward":
        assert_close(read(change.call), read(plainly), **CLOSE)
    elif use in ("greedy", "beams"):
        num_beams = 3 if use == "beams" else 1
        expected = write(plainly, num_beams)
        assert write(change.call, num_beams) == expected
        if all_at_once:
            assert expected != write(functools.partial(call_method, before), num_beams)
    else:
        check_gradients(change, oracle, skip_logits=use == "training, loss alone")
    assert not torch.allclose(
        read(plainly), read(functools.partial(call_method, before)), atol=1e-3
    )


def check_gradients(
    change: Changed, oracle: BahdanauForConditionalGeneration, *, skip_logits: bool
) -> None:
    """The oracle's, and one for everything that is trained."""
    expected_loss = loss_of(functools.partial(call_method, oracle), False)
    expected_loss.backward()
    weights = change.weights()
    led_back = [
        (weights[name], parameter.grad)
        for name, parameter in oracle.named_parameters()
        if weights[name].requires_grad
    ]
    expected = torch.autograd.grad(
        [weight for weight, _ in led_back],
        change.trained,
        [gradient for _, gradient in led_back],
        allow_unused=True,
    )
    loss = loss_of(change.call, skip_logits)
    assert_close(loss.detach(), expected_loss.detach(), **CLOSE)
    loss.backward()
    for parameter, gradient in zip(change.trained, expected, strict=True):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any()
        assert_close(parameter.grad, gradient, **CLOSE)


USES = ["forward", "greedy", "beams", "training", "training, loss alone"]


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
