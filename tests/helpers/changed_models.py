"""Models whose modules a tool has changed, beside plain ones with the weights these come to."""

import copy
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bahdanau_hf import BahdanauForConditionalGeneration
from tests.helpers.batches import batch, pad, source
from tests.helpers.tiny_model import make_config

KINDS: dict[str, dict[str, Any]] = {
    "conditional": {"readout": "deep", "conditional_gru": True, "tie_word_embeddings": True},
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


def read_quantised(model: nn.Module, names: list[str]) -> Changed:
    """What is left in floating point is trained; it is what the others' gradients go through."""
    weights = {f"{name}.weight": model.get_submodule(name).weight for name in names}
    trained = [p for p in model.parameters() if type(p) is nn.Parameter]
    made = changed(model, lambda: {n: w.dequantize().detach() for n, w in weights.items()})
    return made._replace(trained=trained)


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
