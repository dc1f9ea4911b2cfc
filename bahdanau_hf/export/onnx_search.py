"""A whole search as one ONNX graph: ids in, ids out, with the steps in a loop of its own.

Inputs: `input_ids` and `attention_mask`, int64 `(B, S)`, and `max_new_tokens`, int64. Output:
`output_ids`, int64 `(B, T)`, without the start token, as `generate` gives them; the loop stops when
nothing can change any more. Greedy search is here, beam search in `onnx_beams`, the
decoder's step in `onnx_decoder`.

Dimensions: B batch, S source, T steps, C annotation, L decoder layers, H hidden, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..modeling.modeling_bahdanau import BahdanauForConditionalGeneration
from .onnx_beams import BeamRules, add_beams
from .onnx_decoder import Decoder
from .onnx_nodes import RUNTIME, Nodes


class WholeSearch:
    """Translates ids by such a graph; ONNX Runtime and NumPy are all that runs.

    The graph is a file's path, or its content; of 0 threads ONNX Runtime makes its own choice.
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
    beams: BeamRules | None = None,
    int8: bool = False,
) -> Any:
    """Go on from the graph that reads the source to the one that translates.

    Args:
        reading: `onnx.ModelProto` from `input_ids` and `attention_mask` to `state` `(B, L, H)`,
            `annotations` `(B, S, C)` and, if the model attends, `bias` `(B, S)`. It is changed.
        model: in float32, on the CPU.
        end_token_ids: what ends a row; none: every row goes on to `max_new_tokens`.
        beams: how to search with beams; default: greedily.
        int8: keep matrices in 8 bits and multiply integers.

    Returns:
        The same `onnx.ModelProto`.
    """
    from onnx import TensorProto, helper

    search = Nodes("search", [], int8)
    decoder = Decoder(model, search)
    rows = search.op("Shape", "input_ids", start=0, end=1)
    start = search.constant([model.generation_config.decoder_start_token_id])
    pad = model.generation_config.pad_token_id or 0
    if beams is None:
        ids = _add_greedy(decoder, search, rows, start, pad, end_token_ids)
    else:
        # As in the library's search: 0 is not taken for a token that was set.
        fill = pad or next(iter(end_token_ids), 0)
        ids = add_beams(decoder, search, rows, start, fill, end_token_ids, beams)
    search.name(ids, "output_ids")

    graph = reading.graph
    graph.node.extend(search.nodes)
    graph.initializer.extend(search.constants)
    graph.input.append(helper.make_tensor_value_info("max_new_tokens", TensorProto.INT64, []))
    del graph.output[:]
    shape = ["batch", "steps"]
    graph.output.append(helper.make_tensor_value_info("output_ids", TensorProto.INT64, shape))
    if int8 and all(opset.domain != RUNTIME for opset in reading.opset_import):
        reading.opset_import.append(helper.make_opsetid(RUNTIME, 1))
    return reading


def _add_greedy(
    decoder: Decoder, search: Nodes, rows: str, start: str, pad: int, end_token_ids: list[int]
) -> str:
    """Take the likeliest token at every step; the name of the output."""
    from onnx import TensorProto

    column = search.op("Concat", rows, [1], axis=0)  # (B, 1)
    x = decoder.look_up(search, search.op("Expand", start, column))
    goes_on = search.op("Expand", [True], column)

    step = search.inside("step")
    x_now, goes_on_now, *carried = step.given(2 + 2 * decoder.num_layers)
    logits, carried = decoder.step(step, x_now, carried)
    token = step.op("ArgMax", logits, axis=-1, keepdims=0)
    condition = "condition"
    if end_token_ids:
        ends = step.is_one_of(token, end_token_ids)
        goes_on_now = step.op("And", goes_on_now, step.op("Not", ends))
        condition = step.any(goes_on_now)
    results = [decoder.look_up(step, token), goes_on_now, *carried]
    first = [x, goes_on, *decoder.begin(search)]
    (tokens,) = search.loop(step, "max_new_tokens", condition, first, results, [token])

    ids = search.rows_of_ids(tokens)
    if not end_token_ids:
        return ids
    ends = search.op("Cast", search.is_one_of(ids, end_token_ids), to=TensorProto.INT32)
    before = search.op("CumSum", ends, 1, exclusive=1)
    is_behind = search.op("Cast", before, to=TensorProto.BOOL)
    return search.op("Where", is_behind, pad, ids)
