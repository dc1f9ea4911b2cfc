"""The whole greedy search as one ONNX graph: ids in, ids out, with the steps in a loop of its own.

Inputs: `input_ids` and `attention_mask`, int64 `(B, S)`, and `max_new_tokens`, int64. Output:
`output_ids`, int64 `(B, T)`, without the start token; padding follows a row's end token, and the
loop stops when every row has one.

What does not depend on the step stays outside of the loop. The context's way into the gates (and
into the deep readout) is linear: it is taken from each annotation once, and summed with the
attention's weights. The embedding's way there is a table, which ONNX Runtime computes as it loads
the graph. In the loop, one product takes from a layer's state all that is read off it: its next
gates, and with them the attention's query and the logits, or the next layer's gates.

Dimensions: B batch, S source, T steps, E embedding, H hidden, A attention, C annotation, L decoder
layers, V target vocabulary, R numbers of the deep readout before its maxout (0 if it is linear).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..modeling.modeling_bahdanau import BahdanauAttention, BahdanauForConditionalGeneration
from .onnx_nodes import RUNTIME, Nodes

LARGEST_TABLE = 1 << 24  # numbers of the embeddings' table; if it had more, it is not made


class GreedySearch:
    """Translates ids by such a graph; ONNX Runtime and NumPy are all that runs.

    Args:
        graph: the file's path, or its content.
        num_threads: threads of ONNX Runtime; 0: its own choice.
    """

    def __init__(self, graph: str | bytes, num_threads: int = 0) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = num_threads
        # A step is many short operators: threads that wait for work awake take the cores from it.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(graph, options, providers=providers)

    def __call__(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, max_new_tokens: int
    ) -> np.ndarray:
        """Translate a batch, int64 `(B, S)`, to int64 `(B, T)`; see the top of this file."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        inputs["max_new_tokens"] = np.array(max_new_tokens, np.int64)
        return self._session.run(["output_ids"], inputs)[0]


def add_search(
    reading: Any,
    model: BahdanauForConditionalGeneration,
    end_token_ids: list[int],
    int8: bool = False,
) -> Any:
    """Go on from the graph that reads the source to the one that translates.

    Args:
        reading: `onnx.ModelProto` from `input_ids` and `attention_mask` to `state` `(B, L, H)`,
            `annotations` `(B, S, C)` and, if the model attends, `bias` `(B, S)`. It is changed.
        model: in float32, on the CPU.
        end_token_ids: what ends a row; none: every row goes on to `max_new_tokens`.
        int8: keep matrices in 8 bits and multiply integers.

    Returns:
        The same `onnx.ModelProto`.
    """
    from onnx import TensorProto, helper

    constants: list[Any] = []
    search = Nodes("search", constants, int8)
    decoder = _Decoder(model, search)
    rows = search.op("Shape", "input_ids", start=0, end=1)
    column = search.op("Concat", rows, search.constant([1], np.int64), axis=0)  # (B, 1)
    start = search.constant([model.generation_config.decoder_start_token_id], np.int64)
    carried = decoder.begin(search, search.op("Expand", start, column))
    if end_token_ids:
        carried.append(search.op("Expand", search.constant([True], np.bool_), column))
    body = _step(decoder, Nodes("step", constants, int8), len(carried), end_token_ids)
    names = [f"last_{i}" for i, _ in enumerate(carried)]
    inputs = ["max_new_tokens", "", *carried]
    search.nodes.append(helper.make_node("Loop", inputs, [*names, "tokens"], body=body))
    ids = search.op("Squeeze", "tokens", search.constant([2], np.int64))  # (T, B)
    ids = search.op("Transpose", ids, perm=[1, 0])
    if end_token_ids:
        ends = search.op("Cast", _is_one_of(search, ids, end_token_ids), to=TensorProto.INT32)
        axis = search.constant(1, np.int64)
        before = search.op("CumSum", ends, axis, exclusive=1)
        has_ended = search.op("Cast", before, to=TensorProto.BOOL)
        pad = search.constant(model.generation_config.pad_token_id or 0, np.int64)
        ids = search.op("Where", has_ended, pad, ids)
    search.nodes.append(helper.make_node("Identity", [ids], ["output_ids"]))

    graph = reading.graph
    graph.node.extend(search.nodes)
    graph.initializer.extend(constants)
    graph.input.append(helper.make_tensor_value_info("max_new_tokens", TensorProto.INT64, []))
    del graph.output[:]
    shape = ["batch", "steps"]
    graph.output.append(helper.make_tensor_value_info("output_ids", TensorProto.INT64, shape))
    if int8 and all(opset.domain != RUNTIME for opset in reading.opset_import):
        reading.opset_import.append(helper.make_opsetid(RUNTIME, 1))
    return reading


def _step(decoder: _Decoder, step: Nodes, num_carried: int, end_token_ids: list[int]) -> Any:
    """The loop's body as an `onnx.GraphProto`: a token of each row and what the next step needs."""
    from onnx import TensorProto, helper

    def value(name: str, kind: int = TensorProto.FLOAT, shape: Any = None) -> Any:
        return helper.make_tensor_value_info(name, kind, shape)

    inputs = [f"carried_{i}" for i in range(num_carried)]
    running = [inputs.pop()] if end_token_ids else []
    token, results = decoder.step(step, inputs)
    still = []
    if end_token_ids:
        ends = _is_one_of(step, token, end_token_ids)
        still = [step.op("And", *running, step.op("Not", ends))]
        any_row = step.op("ReduceMax", step.op("Cast", *still, to=TensorProto.INT32), keepdims=0)
        goes_on = step.op("Cast", any_row, to=TensorProto.BOOL)
    else:
        goes_on = step.op("Identity", "condition")
    given = [value("iteration", TensorProto.INT64, []), value("condition", TensorProto.BOOL, [])]
    given += [value(name) for name in inputs] + [value(name, TensorProto.BOOL) for name in running]
    found = [value(goes_on, TensorProto.BOOL), *map(value, results)]
    found += [value(name, TensorProto.BOOL) for name in still] + [value(token, TensorProto.INT64)]
    return helper.make_graph(step.nodes, "step", given, found)


def _is_one_of(nodes: Nodes, ids: str, wanted: list[int]) -> str:
    found = ""
    for one in wanted:
        equal = nodes.op("Equal", ids, nodes.constant(one, np.int64))
        found = nodes.op("Or", found, equal) if found else equal
    return found


class _Inputs(NamedTuple):
    """Weights over annotation and embedding of all that reads them: first gates, then readout."""

    annotation: Tensor  # (3H + R, C)
    embedding: Tensor  # (3H + R, E)
    bias: Tensor  # (3H + R,)


class _Decoder:
    """The decoder's weights, laid out for the steps, and the nodes of a step.

    Args:
        model: as `add_search` has it.
        outer: the graph around the loop; what is read off the source once is added to it.
    """

    def __init__(self, model: BahdanauForConditionalGeneration, outer: Nodes) -> None:
        decoder = model.model.decoder
        H, C = model.config.hidden_size, model.config.annotation_size
        self.hidden_size, self.num_layers = H, len(decoder.layers)
        layers: Any = decoder.layers
        query = None if decoder.attention is None else decoder.attention.query.weight
        first, head = layers[0], model.lm_head
        last: Tensor
        last_bias: Tensor
        inputs = _Inputs(first.weight_ih[:, :C], first.weight_ih[:, C:], first.bias_ih)
        last, last_bias = head.weight, head.bias  # what is read off the top state beside the gates
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

        # All that one product takes from a layer's state.
        self.maps, self.read_sizes = [], []
        for layer, above in zip(layers, [*layers[1:], None], strict=True):
            weights, biases = [layer.weight_hh], [layer.bias_hh]
            sizes = [2 * H, H]
            if above is not None:
                weights, biases = [*weights, above.weight_ih], [*biases, above.bias_ih]
                sizes += [2 * H, H]
            else:
                if query is not None:
                    weights, biases = [*weights, query], [*biases, torch.zeros(len(query))]
                    sizes.append(len(query))
                weights, biases = [*weights, last], [*biases, last_bias]
                sizes.append(len(last))
            self.maps.append(outer.linear(torch.cat(weights), torch.cat(biases)))
            self.read_sizes.append(sizes)

        self._embed(decoder.embed_tokens.weight, inputs, outer)
        self._read_source(inputs, outer, decoder.attention)

    def _embed(self, embeddings: Tensor, inputs: _Inputs, outer: Nodes) -> None:
        self.embedding_map = None
        table = outer.stored(embeddings)
        if len(embeddings) * len(inputs.embedding) <= LARGEST_TABLE:
            weight = outer.op("Transpose", outer.stored(inputs.embedding), perm=[1, 0])
            table = outer.op("Add", outer.op("MatMul", table, weight), outer.constant(inputs.bias))
        else:
            self.embedding_map = outer.linear(inputs.embedding, inputs.bias)
        self.table = table  # (V, 3H + R), or (V, E)

    def _read_source(
        self, inputs: _Inputs, outer: Nodes, attention: BahdanauAttention | None
    ) -> None:
        weights = [inputs.annotation]
        if attention is not None:
            weights.append(attention.key.weight)
        both = torch.cat(weights)
        linear = outer.linear(both, torch.zeros(len(both)))
        read = outer.multiply("annotations", linear, within_one=True)
        self.memory, *keys = outer.split(read, [len(x) for x in weights])  # (B, S, 3H + R or A)
        self.attention = None
        if attention is not None:
            bias = outer.op("Unsqueeze", "bias", outer.constant([2], np.int64))  # (B, S, 1)
            self.attention = (keys[0], outer.constant(attention.score.weight.T), bias)

    def begin(self, nodes: Nodes, token: str) -> list[str]:
        """What the first step needs: of each layer the state, then what is read off them."""
        states = nodes.split("state", [1] * self.num_layers, axis=1)  # (B, 1, H)
        reads = [self._read(nodes, i, state) for i, state in enumerate(states)]
        gates = [part for read in reads for part in read[:2]]
        query = reads[-1][2:-1]
        return [self._look_up(nodes, token), *states, *gates, *query]

    def step(self, nodes: Nodes, carried: list[str]) -> tuple[str, list[str]]:
        """Take a step from what the one before has left.

        Returns:
            The likeliest token of each row, `(B, 1)`, and what the next step needs.
        """
        x, *carried = carried
        H, L = self.hidden_size, self.num_layers
        states, gates, query = carried[:L], carried[L : 3 * L], carried[3 * L :]
        context = self._attend(nodes, *query) if query else self.memory
        x_rz, x_n, *pieces = nodes.split(nodes.op("Add", x, context), self.sizes)
        new_states, new_gates = [], []
        for i, state in enumerate(states):
            state = nodes.update_state((x_rz, x_n), (gates[2 * i], gates[2 * i + 1]), state, H)
            s_rz, s_n, *above = self._read(nodes, i, state)
            new_states.append(state)
            new_gates += [s_rz, s_n]
            if i + 1 < L:
                x_rz, x_n = above
        *query, logits = above
        if self.head is not None:
            both = nodes.op("Add", logits, *pieces)  # (B, 1, R)
            half = self.read_sizes[-1][-1] // 2
            larger = nodes.op("Max", *nodes.split(both, [half, half]))
            logits = nodes.multiply(larger, self.head)
        token = nodes.op("ArgMax", logits, axis=-1, keepdims=0)
        return token, [self._look_up(nodes, token), *new_states, *new_gates, *query]

    def _read(self, nodes: Nodes, layer: int, state: str) -> list[str]:
        product = nodes.multiply(state, self.maps[layer], within_one=True)
        return nodes.split(product, self.read_sizes[layer])

    def _look_up(self, nodes: Nodes, token: str) -> str:
        row = nodes.op("Gather", self.table, token)
        return nodes.multiply(row, self.embedding_map) if self.embedding_map else row

    def _attend(self, nodes: Nodes, query: str) -> str:
        assert self.attention is not None
        keys, score, bias = self.attention
        features = nodes.op("Tanh", nodes.op("Add", query, keys))
        scores = nodes.op("Add", nodes.op("MatMul", features, score), bias)
        weights = nodes.op("Softmax", scores, axis=1)  # (B, S, 1)
        return nodes.op("MatMul", nodes.op("Transpose", weights, perm=[0, 2, 1]), self.memory)
