"""The recurrence as functions of tensors: the plain reference and the door to the fast one.

Dimensions: B batch, S source, T target, H hidden, A attention, C annotation, L decoder layers.

Letters, as in Bahdanau et al. 2015, and the names outside this file:

    y      decoder_inputs_embeds, embedding of the previous word   (B, T, E)
    h      annotations, the encoder's last_hidden_state            (B, S, C)
    s      decoder state, one per layer                            (B, L, H)
    e      scores of the source positions before the softmax       (B, S)
    alpha  attention weights (cross_attentions)                    (B, S)
    c      context, the weighted sum of annotations                (B, C)

A decoder step looks at the source with the top layer's previous state, then updates the layers from
the bottom up, the first one from `[c; y]` and every other one from the layer below it.
"""

import os
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.utils import logging

from .fused_bahdanau import recur, update_state
from .packed_bahdanau import Product, can_pack, make_product, remember
from .products_bahdanau import linear
from .triton_bahdanau import recur_on_chip

IMPLEMENTATIONS = ("reference", "fast", "graph", "triton")


def _default(wish: str | None) -> str:
    """What to take where nothing is asked for, if the environment wishes so."""
    if not wish or wish in IMPLEMENTATIONS:
        return wish or "fast"
    logging.get_logger(__name__).warning(
        f"BAHDANAU_IMPLEMENTATION is {wish!r}, which is none of {', '.join(IMPLEMENTATIONS)}; "
        "it is not followed."
    )
    return "fast"


DEFAULT = _default(os.environ.get("BAHDANAU_IMPLEMENTATION"))


class GRUWeights(NamedTuple):
    """One GRU layer in PyTorch's layout: reset, update and new gate, in this order."""

    weight_ih: Tensor  # (3H, input)
    weight_hh: Tensor  # (3H, H)
    bias_ih: Tensor  # (3H,)
    bias_hh: Tensor  # (3H,)


class DecoderWeights(NamedTuple):
    """All weights of the recurrence; the attention's are `None` in a model without attention."""

    layers: tuple[GRUWeights, ...]
    query: Tensor | None  # (A, H), W_a in the paper
    score: Tensor | None  # (A,), v_a in the paper


class Memory(NamedTuple):
    """What the decoder looks at: computed once per sentence, the same at every step.

    Without attention it is a single position, the encoder's final state, with weight 1.
    """

    annotations: Tensor  # (B, S, C)
    bias: (
        Tensor  # float32 (B, S): 0 on real tokens, at least one per row; hugely negative elsewhere
    )
    keys: Tensor | None  # (B, S, A), U_a h in the paper
    gates: Tensor  # (B, S, 3H), annotations through the first layer's context weights


class Prepared(NamedTuple):
    """The weights as the fast path reads them; made once per batch, or once per translation."""

    inputs: tuple[
        tuple[Tensor, Tensor], ...
    ]  # weight_ih, bias_ih of the layers; first: embedding's
    recurrent: tuple[tuple[Tensor, Tensor], ...]  # weight_hh, bias_hh; the top one with the query
    score: Tensor | None


class DropoutMasks(NamedTuple):
    """Factors drawn before the loop, 0 or 1 / (1 - p); `None` where nothing is dropped."""

    layers: Tensor | None = None  # (T, L - 1, B, H), on the output of each layer but the last
    attention: Tensor | None = None  # (T, B, S), on the attention weights


class Decoded(NamedTuple):
    """What the recurrence gives for T steps."""

    states: Tensor  # (T, L, B, H), every layer's state after each step
    weights: Tensor | None  # alpha (T, B, S) before dropout; None without attention


def additive_attention(
    query: Tensor, keys: Tensor, annotations: Tensor, score: Tensor, bias: Tensor
) -> tuple[Tensor, Tensor]:
    """Look once at the source and summarise it (Bahdanau et al. 2015, eqs. 5-6, appendix A.1.2).

    e_j = v^T tanh(query + key_j),   alpha = softmax(e),   c = sum_j alpha_j h_j

    Args:
        query: projected decoder state, `(B, A)`.
        keys: projected annotations, `(B, S, A)`.
        annotations: `(B, S, C)`.
        score: v, `(A,)`.
        bias: float32 `(B, S)`, 0 on real tokens, at least one per row; hugely negative elsewhere.

    Returns:
        Context `(B, C)` and alpha `(B, S)`, whose rows sum to 1 and are exactly 0 on padding.
    """
    features = torch.tanh(query.unsqueeze(1) + keys)  # (B, S, A)
    scores = (features @ score).to(bias.dtype) + bias
    alpha = scores.softmax(dim=-1).to(annotations.dtype)
    return torch.einsum("bs,bsc->bc", alpha, annotations), alpha


def gru_step(x: Tensor, s: Tensor, layer: GRUWeights, hold: Tensor | None = None) -> Tensor:
    """Update one layer's state (Cho et al. 2014, with the reset gate where PyTorch applies it).

    r = sigmoid(W_r x + U_r s),  z = sigmoid(W_z x + U_z s),  n = tanh(W x + r * (U s)),
    s' = (1 - z) * n + z * s

    The paper's z is our 1 - z, and its reset gate multiplies s before U does.

    Args:
        x: input, `(B, input)`.
        s: previous state, `(B, H)`.
        layer: the layer's weights.
        hold: `(B, 1)`, added to the update gate before its sigmoid; a large number keeps s.

    Returns:
        The new state, `(B, H)`.
    """
    x_r, x_z, x_n = F.linear(x, layer.weight_ih, layer.bias_ih).chunk(3, dim=-1)
    s_r, s_z, s_n = F.linear(s, layer.weight_hh, layer.bias_hh).chunk(3, dim=-1)
    reset = torch.sigmoid(x_r + s_r)
    update = torch.sigmoid(x_z + s_z if hold is None else x_z + s_z + hold)
    new = torch.tanh(x_n + reset * s_n)
    return (1 - update) * new + update * s


def decode_reference(
    embeddings: Tensor,
    state: Tensor,
    memory: Memory,
    weights: DecoderWeights,
    masks: DropoutMasks = DropoutMasks(),  # noqa: B008 (immutable)
    hold: Tensor | None = None,
) -> Decoded:
    """Run the recurrence as the equations say, one step after the other. Arguments as `decode`."""
    all_states, all_weights = [], []
    layers = list(state.unbind(1))
    for t in range(embeddings.shape[1]):
        if weights.query is None or weights.score is None or memory.keys is None:
            context = memory.annotations[:, 0]
        else:
            query = F.linear(layers[-1], weights.query)
            context, alpha = additive_attention(
                query, memory.keys, memory.annotations, weights.score, memory.bias
            )
            all_weights.append(alpha)
            if masks.attention is not None:
                dropped = alpha * masks.attention[t]
                context = torch.einsum("bs,bsc->bc", dropped, memory.annotations)
        x = torch.cat([context, embeddings[:, t]], dim=-1)
        for i, layer in enumerate(weights.layers):
            layers[i] = gru_step(x, layers[i], layer, None if hold is None else hold[:, t, None])
            x = layers[i]
            if masks.layers is not None and i + 1 < len(layers):
                x = x * masks.layers[t, i]
        all_states.append(torch.stack(layers))
    return Decoded(torch.stack(all_states), torch.stack(all_weights) if all_weights else None)


def decode(
    embeddings: Tensor,
    state: Tensor,
    memory: Memory,
    weights: DecoderWeights,
    masks: DropoutMasks = DropoutMasks(),  # noqa: B008 (immutable)
    hold: Tensor | None = None,
    implementation: str | None = None,
) -> Decoded:
    """Run the recurrence over T known inputs, by the fastest way that gives the same result.

    Args:
        embeddings: inputs of the steps, `(B, T, E)`.
        state: the layers' states before the first step, `(B, L, H)`.
        memory: the source side.
        weights: the recurrence's weights.
        masks: dropout factors, drawn by the caller.
        hold: `(B, T)`, 0 on real inputs; a large number where a row's state must not move.
        implementation: see `choose`.

    Returns:
        States `(T, L, B, H)` and, with attention, weights `(T, B, S)`.
    """
    implementation = choose(implementation)
    if implementation == "reference":
        return decode_reference(embeddings, state, memory, weights, masks, hold)
    prepared = prepare(weights, memory.annotations.shape[-1])
    return decode_fast(embeddings, state, memory, prepared, masks, hold, implementation)


def choose(implementation: str | None) -> str:
    """Settle how the recurrence is computed; the results differ by rounding alone.

    - `"reference"`: as the equations say, step by step; `generate` by the library's loop.
    - `"fast"`: a loop of PyTorch's operations, on any device; the default.
    - `"graph"`: the same, and `generate` replays its steps as CUDA graphs.
    - `"triton"`: known inputs in one kernel on a GPU (training, scoring); else as `"fast"`.

    Args:
        implementation: one of these, or `None` for what the environment variable
            `BAHDANAU_IMPLEMENTATION` said at import, or else the default. Exports are of the
            equations.

    Raises:
        ValueError: there is none of that name.
    """
    if implementation not in (None, *IMPLEMENTATIONS):
        raise ValueError(
            f"implementation must be one of {', '.join(IMPLEMENTATIONS)}, not {implementation!r}"
        )
    if torch.compiler.is_exporting():
        return "reference"
    return implementation or DEFAULT


def prepare(weights: DecoderWeights, context_size: int) -> Prepared:
    """Lay the weights out for the fast path.

    The first layer's input weights lose their context part, which `Memory.gates` has taken up; the
    attention's query joins the top layer's recurrent weights, so that one product gives both.

    Args:
        weights: the recurrence's weights.
        context_size: C, the width of an annotation.
    """
    first = weights.layers[0]
    inputs = [(first.weight_ih[:, context_size:], first.bias_ih)]
    inputs += [(layer.weight_ih, layer.bias_ih) for layer in weights.layers[1:]]
    recurrent = [(layer.weight_hh, layer.bias_hh) for layer in weights.layers]
    if weights.query is not None:
        weight, bias = recurrent[-1]
        no_bias = bias.new_zeros(weights.query.shape[0])
        recurrent[-1] = (torch.cat([weight, weights.query]), torch.cat([bias, no_bias]))
    return Prepared(tuple(inputs), tuple(recurrent), weights.score)


def decode_fast(
    embeddings: Tensor,
    state: Tensor,
    memory: Memory,
    prepared: Prepared,
    masks: DropoutMasks = DropoutMasks(),  # noqa: B008 (immutable)
    hold: Tensor | None = None,
    implementation: str = "fast",
) -> Decoded:
    """Run the recurrence with all that does not depend on the state taken out of the loop.

    The context never appears: its way into the first layer's gates is linear, so the weights are
    applied to each annotation once (`Memory.gates`) and the weighted sum is taken of the results.
    """
    x = linear(embeddings.transpose(0, 1), *prepared.inputs[0])  # (T, B, 3H)
    attends = prepared.score is not None
    if not attends:
        x = x + memory.gates.transpose(0, 1)  # (1, B, 3H): the same context at every step
    run = recur_on_chip if implementation == "triton" else recur
    states, alpha = run(
        x,
        state,
        prepared.recurrent,
        prepared.inputs[1:],
        keys=memory.keys if attends else None,
        gates=memory.gates if attends else None,
        bias=memory.bias if attends else None,
        score=prepared.score,
        layer_masks=masks.layers,
        attention_masks=masks.attention,
        hold=None if hold is None else hold.transpose(0, 1),
    )
    return Decoded(states, alpha)


def run_gru(x: Tensor, layer: nn.GRU, int8: bool = False) -> Tensor:
    """Run one GRU layer from a zero state, `(S, B, input)` to `(S, B, H)`.

    On CPUs by the same loop as the decoder's; on GPUs, and while tracing, by PyTorch's own.
    Outside the graph, the weights stay laid out from one call to the next.

    Args:
        x: input.
        layer: the weights.
        int8: multiply in 8 bits.
    """
    if torch.compiler.is_exporting():
        return layer(x)[0]  # the module is asked: an exporter may have put its own in its place
    if x.device.type != "cpu":
        return library_gru(x, layer)
    weight_ih, weight_hh, bias_ih, bias_hh = weights = layer.all_weights[0]
    if can_pack(x.device):
        dtype = x.dtype
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")

        def lay_out() -> tuple[Product, Product]:
            return (
                make_product(weight_ih, bias_ih, dtype, True, int8),
                make_product(weight_hh, bias_hh, dtype, True, int8, within_one=True),
            )

        return _run_products(x, *remember(layer, (dtype, int8), weights, lay_out)).to(x.dtype)
    gates = linear(x, weight_ih, bias_ih)
    start = x.new_zeros(x.shape[1], 1, layer.hidden_size)
    states, _ = recur(gates, start, ((weight_hh, bias_hh),))
    return states[:, 0].to(x.dtype)


def library_gru(x: Tensor, layer: nn.GRU) -> Tensor:
    """Do what `run_gru` does by PyTorch's GRU, which is cuDNN's on a GPU.

    The layer itself would keep what gradients need in training only.
    """
    start, keep = x.new_zeros(1, x.shape[1], layer.hidden_size), torch.is_grad_enabled()
    return torch.gru(x, start, [*layer.all_weights[0]], True, 1, 0.0, keep, False, False)[0]


def _run_products(x: Tensor, read_input: Product, read_state: Product) -> Tensor:
    """Run a GRU layer of laid-out weights, `(S, B, input)` to at least float32 `(S, B, H)`."""
    S, B, _ = x.shape
    gates = read_input(x.flatten(0, 1)).unflatten(0, (S, B))
    H = gates.shape[2] // 3
    states = gates.new_empty(S + 1, B, H)
    states[0] = 0
    rz, n = gates.new_empty(B, 2 * H), gates.new_empty(B, H)
    for x_t, s, out in zip(gates.unbind(), states[:-1].unbind(), states[1:].unbind(), strict=True):
        update_state(x_t, read_state(s), s, None, rz, n, out)
    return states[1:]
