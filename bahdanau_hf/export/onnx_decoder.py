"""The decoder's step as nodes of an ONNX graph, for every search.

What does not depend on the step stays outside of the search's loop. The context's way into the
gates (and into the deep readout) is linear: it is taken from each annotation once, and summed with
the attention's weights. The embedding's way there is a table, which ONNX Runtime computes as it
loads the graph. In the loop, one product takes from a layer's state all that is read off it: its
next gates, and with them the attention's query and the logits, or the next layer's gates.

Dimensions: B batch, K beams, S source, E embedding, H hidden, A attention, C annotation, L decoder
layers, V target vocabulary, R numbers of the deep readout before its maxout (0 if it is linear).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ..modeling.modeling_bahdanau import BahdanauAttention, BahdanauForConditionalGeneration
from .onnx_nodes import Nodes

LARGEST_TABLE = 1 << 24  # numbers of the embeddings' table; if it had more, it is not made


class _Inputs(NamedTuple):
    """Weights over annotation and embedding of all that reads them: first gates, then readout."""

    annotation: Tensor  # (3H + R, C)
    embedding: Tensor  # (3H + R, E)
    bias: Tensor  # (3H + R,)


class Decoder:
    """The decoder's weights, laid out for the steps, and the nodes of a step.

    A step carries on, besides what is known of the last token, of each layer the state
    `(B, K, H)` and what the next step wants of it, `(B, K, 3H)` or, if the attention looks with
    it, 3H + A.

    Args:
        model: in float32, on the CPU.
        outer: the graph around the loop; what is read off the source once is added to it. It has
            `state` `(B, L, H)`, `annotations` `(B, S, C)` and, if the model attends, `bias`
            `(B, S)`.
    """

    def __init__(self, model: BahdanauForConditionalGeneration, outer: Nodes) -> None:
        decoder = model.model.decoder
        H, C = model.config.hidden_size, model.config.annotation_size
        self.hidden_size, self.num_layers = H, len(decoder.layers)
        self.vocab_size = len(model.lm_head.weight)
        layers: Any = decoder.layers
        query = None if decoder.attention is None else decoder.attention.query.weight
        first, head = layers[0], model.lm_head
        inputs, context_bias = _Inputs(*decoder.input_weights()), torch.zeros(3 * H)
        # Of a conditional GRU the state between the transitions gives the query, and the second
        # one's gates; what a step wants of the state before are the first one's gates.
        self.between = None
        if decoder.transition is not None and query is not None:
            context_bias = first.bias_ih
            weights, biases = (first.weight_hh, query), (first.bias_hh, torch.zeros(len(query)))
            self.between = outer.linear(torch.cat(weights), torch.cat(biases))
            self.between_sizes = [2 * H, H, len(query)]
            first, query = decoder.transition, None
        # What is read off the top state beside the gates.
        last: Tensor = head.weight
        last_bias: Tensor = head.bias
        self.head = None
        if decoder.readout is not None:
            # Of each pair the larger is taken: the first ones, then the second ones.
            weight, bias = (
                torch.cat([x[0::2], x[1::2]]) for x in decoder.readout.projection.parameters()
            )
            last, context, embedding = weight.split([H, C, weight.shape[1] - H - C], dim=1)
            last_bias = torch.zeros_like(bias)
            joined = zip(inputs, (context, embedding, bias), strict=True)
            inputs = _Inputs(*(torch.cat(pair) for pair in joined))
            self.head = outer.linear(head.weight, head.bias)
        self.sizes = [2 * H, H, *([len(last)] if self.head else [])]  # of the inputs' pieces

        # All that one product takes from a layer's state: what the next step wants of it, and what
        # goes up in this one.
        self.maps, self.read_sizes = [], []
        self.wanted_sizes = [[2 * H, H] for _ in layers]
        wanted = [[(layer.weight_hh, layer.bias_hh)] for layer in (first, *layers[1:])]
        if query is not None:
            wanted[-1].append((query, torch.zeros(len(query))))
            self.wanted_sizes[-1].append(len(query))
        upwards = [*((above.weight_ih, above.bias_ih) for above in layers[1:]), (last, last_bias)]
        for parts, part in zip(wanted, upwards, strict=True):
            weights, biases = zip(*parts, part, strict=True)
            self.maps.append(outer.linear(torch.cat(weights), torch.cat(biases)))
            self.read_sizes.append([sum(map(len, weights[:-1])), len(weights[-1])])

        self._embed(decoder.embed_tokens.weight, inputs, outer)
        self._read_source(inputs, context_bias, outer, decoder.attention)

    def _embed(self, embeddings: Tensor, inputs: _Inputs, outer: Nodes) -> None:
        self.embedding_map = None
        table = outer.stored(embeddings)
        if len(embeddings) * len(inputs.embedding) <= LARGEST_TABLE:
            weight = outer.op("Transpose", outer.stored(inputs.embedding), perm=[1, 0])
            table = outer.op("Add", outer.op("MatMul", table, weight), inputs.bias)
        else:
            self.embedding_map = outer.linear(inputs.embedding, inputs.bias)
        self.table = table  # (V, 3H + R), or (V, E)

    def _read_source(
        self, inputs: _Inputs, bias: Tensor, outer: Nodes, attention: BahdanauAttention | None
    ) -> None:
        weights = [inputs.annotation]
        if attention is not None:
            weights.append(attention.key.weight)
        both = torch.cat(weights)
        # Attention weights sum to 1, so the gates' bias may be each annotation's.
        linear = outer.linear(both, F.pad(bias, (0, len(both) - len(bias))))
        read = outer.multiply("annotations", linear, within_one=True)
        self.memory, *keys = outer.split(read, [len(x) for x in weights])  # (B, S, 3H + R or A)
        self.attention = None
        if attention is not None:
            above = outer.op("Unsqueeze", keys[0], [1])  # (B, 1, S, A)
            visible = outer.op("Unsqueeze", "bias", [1])  # (B, 1, S)
            self.attention = (above, outer.constant(attention.score.weight.T), visible)

    def begin(self, nodes: Nodes) -> list[str]:
        """What the first step of one row a sentence finds carried on."""
        states = nodes.split("state", [1] * self.num_layers, axis=1)  # (B, 1, H)
        return [*states, *(self._read(nodes, i, state)[0] for i, state in enumerate(states))]

    def look_up(self, nodes: Nodes, tokens: str) -> str:
        """What the next step must know of tokens, `(B, K)`."""
        rows = nodes.op("Gather", self.table, tokens)
        return nodes.multiply(rows, self.embedding_map) if self.embedding_map else rows

    def step(self, nodes: Nodes, x: str, carried: list[str]) -> tuple[str, list[str]]:
        """Take a step, from what `look_up` has found and what the step before has carried on.

        Returns:
            Logits `(B, K, V)`, and what is carried on.
        """
        H, L = self.hidden_size, self.num_layers
        states, wanted = carried[:L], carried[L:]
        reads = [nodes.split(*pair) for pair in zip(wanted, self.wanted_sizes, strict=True)]
        query = reads[-1][2:]
        if self.between is not None:
            x_rz, x_n, *pieces = nodes.split(x, self.sizes)
            s_rz, s_n = reads[0]
            states = [nodes.update_state((x_rz, x_n), (s_rz, s_n), states[0], H)]
            product = nodes.multiply(states[0], self.between, within_one=True)
            s_rz, s_n, of_state = nodes.split(product, self.between_sizes)
            reads = [[s_rz, s_n]]
            context = self._attend(nodes, of_state)
            x_rz, x_n, *others = nodes.split(context, self.sizes)
            pieces += others
        else:
            context = self._attend(nodes, *query) if query else self.memory
            x_rz, x_n, *pieces = nodes.split(nodes.op("Add", x, context), self.sizes)
        new_states, new_wanted = [], []
        for i, (state, (s_rz, s_n, *_)) in enumerate(zip(states, reads, strict=True)):
            state = nodes.update_state((x_rz, x_n), (s_rz, s_n), state, H)
            kept, logits = self._read(nodes, i, state)
            new_states.append(state)
            new_wanted.append(kept)
            if i + 1 < L:
                x_rz, x_n = nodes.split(logits, [2 * H, H])
        if self.head is not None:
            both = nodes.op("Add" if len(pieces) == 1 else "Sum", logits, *pieces)  # (B, K, R)
            half = self.read_sizes[-1][-1] // 2
            larger = nodes.op("Max", *nodes.split(both, [half, half]))
            logits = nodes.multiply(larger, self.head)
        return logits, [*new_states, *new_wanted]

    def _read(self, nodes: Nodes, layer: int, state: str) -> list[str]:
        product = nodes.multiply(state, self.maps[layer], within_one=True)
        return nodes.split(product, self.read_sizes[layer])

    def _attend(self, nodes: Nodes, query: str) -> str:
        assert self.attention is not None
        keys, score, bias = self.attention
        query = nodes.op("Unsqueeze", query, [2])  # (B, K, 1, A)
        features = nodes.op("Tanh", nodes.op("Add", query, keys))
        products = nodes.op("MatMul", features, score)  # (B, K, S, 1)
        scores = nodes.op("Squeeze", products, [3])
        weights = nodes.op("Softmax", nodes.op("Add", scores, bias), axis=-1)
        return nodes.op("MatMul", weights, self.memory)
