"""An ONNX graph with its matrices in 8 bits."""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from .onnx_nodes import RUNTIME, Nodes, swap_gates


@contextmanager
def without_notes() -> Iterator[None]:
    """Keep the exporters' notes on how they work from the user."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def quantize(graph: Any, int8_gru: bool = False) -> Any:
    """The graph with its matrices in 8 bits, by ONNX Runtime's dynamic quantisation.

    Args:
        graph: `onnx.ModelProto` with matrices as initializers; it is changed.
        int8_gru: multiply a GRU's state in 8 bits as well. If not, its matrices are stored in 8
            bits alone and become floats at loading: slower, and a little closer to the model.

    Returns:
        Another one, with inputs and outputs as before.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    # The attention's score is a vector, for which there is no product of integers.
    vectors = {x.name for x in graph.graph.initializer if len(x.dims) == 1}
    excluded = [n.name for n in graph.graph.node if n.op_type == "MatMul" and n.input[1] in vectors]
    with without_notes(), tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "quantized.onnx")
        quantize_dynamic(
            graph,
            path,
            op_types_to_quantize=["MatMul", "Gather"],
            per_channel=True,
            weight_type=QuantType.QUInt8,
            nodes_to_exclude=excluded,
            extra_options={"WeightSymmetric": True},
        )
        quantized = onnx.load(path)
    for layer in [node for node in quantized.graph.node if node.op_type == "GRU"]:
        _quantize_gru(quantized.graph, layer, int8_gru)
    if int8_gru:
        quantized.opset_import.append(onnx.helper.make_opsetid(RUNTIME, 1))
    return quantized


def _quantize_gru(graph: Any, layer: Any, int8: bool) -> None:
    """Put other nodes in the place of a GRU layer, or of its matrices."""
    from onnx import numpy_helper

    position = list(graph.node).index(layer)
    initializers = {x.name: x for x in graph.initializer}
    matrices = [initializers[name] for name in layer.input[1:4]]
    arrays = [numpy_helper.to_array(x)[0] for x in matrices]  # (3H, input), (3H, H), (6H,)
    nodes = Nodes(f"{layer.output[0]}_gru", [], int8=True)
    if int8:
        _take_steps(nodes, layer, *arrays)
    else:
        matrices = matrices[:2]  # the bias stays as it is
        for place, array in enumerate(arrays[:2], start=1):
            layer.input[place] = nodes.op("Unsqueeze", nodes.stored(array), [0])
        nodes.nodes.append(layer)
    for matrix in matrices:
        graph.initializer.remove(matrix)
    graph.initializer.extend(nodes.constants)
    after = list(graph.node)[position + 1 :]
    del graph.node[position:]
    graph.node.extend([*nodes.nodes, *after])


def _take_steps(
    nodes: Nodes, layer: Any, weight: np.ndarray, recurrent: np.ndarray, bias: np.ndarray
) -> None:
    """Write a GRU layer as a loop of products of integers; ONNX Runtime has no such GRU."""
    H = recurrent.shape[1]
    input_bias, state_bias = map(swap_gates, np.split(bias, 2))
    turned = nodes.op("Transpose", nodes.stored(swap_gates(weight)), perm=[1, 0])
    x = nodes.op("Add", nodes.op("MatMul", layer.input[0], turned), input_bias)  # (S, B, 3H)
    shape = nodes.op("Concat", nodes.op("Shape", x, start=1, end=2), [H], axis=0)
    start = nodes.op("Expand", [0.0], shape)
    read = nodes.linear(swap_gates(recurrent), state_bias)

    step = nodes.inside(f"{nodes.prefix}_step")
    state, x_rz, x_n = step.given(3)
    s_rz, s_n = step.split(step.multiply(state, read, within_one=True), [2 * H, H])
    new = step.update_state((x_rz, x_n), (s_rz, s_n), state, H)
    written = step.op("Identity", new)
    pieces = nodes.split(x, [2 * H, H])
    (states,) = nodes.scan(step, [start], pieces, [new], [written])  # (S, B, H)
    nodes.name(nodes.op("Unsqueeze", states, [1]), layer.output[0])
