"""The decoder's recurrence over random leaves, and the gradients of these."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bahdanau_hf import BahdanauConfig
from bahdanau_hf.modeling.modeling_bahdanau import (
    FAST_WAYS,
    HOLD,
    BahdanauDecoder,
    Decoded,
    DropoutMasks,
    Source,
)

GRU_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


class Sizes(NamedTuple):
    batch: int
    source: int
    target: int
    embedding: int
    hidden: int
    attention: int
    annotation: int


SIZES = [
    Sizes(3, 5, 4, 2, 7, 6, 9),
    Sizes(1, 1, 1, 1, 1, 1, 1),
    Sizes(2, 17, 3, 11, 5, 13, 4),
    Sizes(5, 2, 9, 3, 2, 1, 8),
]


class FreeConfig(BahdanauConfig):
    """Its annotations are of any width, so that it cannot be mistaken for the state's."""

    annotation_size = 0


class Steps(nn.Module):
    """A decoder's steps as a module, so that tensors can be put in place of its parameters."""

    def __init__(self, sizes: Sizes, num_layers: int, attention: bool, conditional: bool):
        super().__init__()
        config = FreeConfig(
            vocab_size=1,
            embedding_size=sizes.embedding,
            hidden_size=sizes.hidden,
            attention_hidden_size=sizes.attention,
            decoder_layers=num_layers,
            use_attention=attention,
            conditional_gru=conditional,
        )
        config.annotation_size = sizes.annotation
        self.decoder = BahdanauDecoder(config)

    def forward(self, way: str, *given: Any) -> Decoded:
        return getattr(self.decoder, way)(*given)


class Problem:
    """Random leaves of the graph, and the recurrence over them done one way or the other."""

    def __init__(
        self,
        sizes: Sizes = SIZES[0],
        num_layers: int = 2,
        attention: bool = True,
        layer_dropout: bool = False,
        attention_dropout: bool = False,
        hold: bool = False,
        dtype: torch.dtype = torch.float64,
        conditional: bool = False,
    ):
        B, S, T, E, H, A, C = sizes
        self.steps = Steps(sizes, num_layers, attention, conditional)
        # Names of the GRU layers, and the leaves' before their dots.
        self.layers = {f"layers.{i}": (str(i), C + E if i == 0 else H) for i in range(num_layers)}
        if conditional:
            self.layers = {"transition": ("between", E), "layers.0": ("0", C)}
        self.sizes, self.num_layers, self.attention = sizes, num_layers, attention
        make = lambda *shape: torch.randn(*shape, dtype=dtype, requires_grad=True)  # noqa: E731
        self.leaves = {"embeddings": make(B, T, E), "state": make(B, num_layers, H)}
        self.leaves["annotations"] = make(B, S if attention else 1, C)
        for i, width in self.layers.values():
            self.leaves[f"{i}.weight_ih"] = make(3 * H, width)
            self.leaves[f"{i}.weight_hh"] = make(3 * H, H)
            self.leaves[f"{i}.bias_ih"] = make(3 * H)
            self.leaves[f"{i}.bias_hh"] = make(3 * H)
        if attention:
            self.leaves |= {"query": make(A, H), "key": make(A, C), "score": make(A)}
        lengths = torch.randint(1, S + 1, (B,))
        self.visible = torch.arange(S) < lengths[:, None]
        if not attention:
            self.visible = torch.ones(B, 1, dtype=torch.bool)
        bias_dtype = torch.promote_types(dtype, torch.float32)
        lowest = torch.finfo(bias_dtype).min
        self.bias = torch.zeros(self.visible.shape, dtype=bias_dtype).masked_fill(
            ~self.visible, lowest
        )
        factors = lambda *shape: (torch.rand(*shape) > 0.3).to(dtype) / 0.7  # noqa: E731
        self.masks = DropoutMasks(
            factors(T, num_layers - 1, B, H) if layer_dropout and num_layers > 1 else None,
            factors(T, B, S) if attention_dropout and attention else None,
        )
        self.hold = (torch.rand(B, T) > 0.6).to(dtype) * HOLD if hold else None

    def run(self, implementation: str, steps: slice = slice(None), **changed: Tensor) -> Decoded:
        x = self.leaves | changed
        weights = {
            f"decoder.{layer}.{name}": x[f"{i}.{name}"]
            for layer, (i, _) in self.layers.items()
            for name in GRU_WEIGHTS
        }
        if self.attention:
            weights["decoder.attention.query.weight"] = x["query"]
            weights["decoder.attention.score.weight"] = x["score"].unsqueeze(0)
        source = Source(
            x["annotations"],
            self.bias,
            x["annotations"] @ x["key"].t() if self.attention else None,
            None,
        )
        masks = DropoutMasks(*(None if mask is None else mask[steps] for mask in self.masks))
        hold = None if self.hold is None else self.hold[:, steps]
        way, after = "decode", ()
        if implementation != "reference":
            of_contexts = x["0.weight_ih"][:, : self.sizes.annotation]
            source = source._replace(gates=x["annotations"] @ of_contexts.t())
            way, after = "decode_fast", (FAST_WAYS[implementation].recur,)
        given = (x["embeddings"][:, steps], x["state"], source, masks, hold, *after)
        return functional_call(self.steps, weights, (way, *given))


def gradients(problem: Problem, decoded: Decoded, use: str = "both") -> dict[str, Tensor | None]:
    """Gradients of a fixed random sum of the results with respect to every leaf."""
    generator = torch.Generator().manual_seed(5)
    total = torch.zeros((), dtype=torch.float64)
    for name in ("states", "weights"):
        result = getattr(decoded, name)
        if result is not None and use in ("both", name):
            weights = torch.randn(result.shape, generator=generator, dtype=torch.float64)
            total = total + (result * weights).sum()
    leaves = {name: leaf for name, leaf in problem.leaves.items() if leaf.requires_grad}
    grads = torch.autograd.grad(total, list(leaves.values()), allow_unused=True)
    return dict(zip(leaves, grads, strict=True))


def assert_relatively_close(actual: Tensor, expected: Tensor, name: str, bound: float) -> None:
    scale = expected.abs().max().clamp(min=1e-300)
    error = (actual - expected).abs().max() / scale
    assert error <= bound, f"{name}: relative error {error:.1e}"
