"""Eight bits in ONNX graphs: the same integers on every processor, and close to the floats."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from bahdanau_hf.export.onnx_export import _graphs, search_graph
from bahdanau_hf.export.onnx_int8 import quantize
from bahdanau_hf.export.onnx_nodes import LARGEST, ZERO, round_rows
from tests.helpers.exported_checkpoint import Exported

onnx = pytest.importorskip("onnx", reason="needs the extra [onnx]")
onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8):
    pytest.skip("exporting needs PyTorch 2.8", allow_module_level=True)

PRODUCTS = {"MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"}  # of integers


def integer_weights(graph: Any, outer: dict[str, np.ndarray] | None = None) -> Iterator[np.ndarray]:
    """The weights `(K, N)` of all products of integers, those inside of loops as well."""
    known = dict(outer or {})
    known |= {x.name: onnx.numpy_helper.to_array(x) for x in graph.initializer}
    for node in graph.node:
        if node.op_type in PRODUCTS:
            yield known[node.input[1]]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from integer_weights(attribute.g, known)


def extreme_bytes(weight: np.ndarray, zero: int) -> np.ndarray:
    """For every column the bytes `(2 N, K)` that bring its sum the farthest, up and down."""
    above, below = weight.T.astype(int) > zero, weight.T.astype(int) < zero
    return np.concatenate([above, below]).astype(np.uint8) * np.uint8(255)


def exact_sums(left: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """`(M, K)` by `(K, N)`."""
    return left.astype(int) @ weight.astype(int)


def sums_without_vnni(left: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The same as a processor of AVX2 adds it up.

    Signed bytes go through `vpmaddubsw`, which cuts the sum of two neighbours' products to 16 bits;
    unsigned ones are made 16 bits wide before (`vpmovzxbw`, `vpmaddwd`), and the sum has 32.
    """
    total = np.zeros((len(left), weight.shape[1]), int)
    for k in range(0, len(weight), 2):
        pair = exact_sums(left[:, k : k + 2], weight[k : k + 2])
        total += pair.clip(-(1 << 15), (1 << 15) - 1) if weight.dtype == np.int8 else pair
    return total


@pytest.fixture(scope="module")
def weights(exported: Exported) -> list[np.ndarray]:
    """All weights that are multiplied in 8 bits, of a trained model's two graphs and of its one."""
    two = [quantize(graph) for graph in _graphs(exported.model)]
    graphs = [*two, search_graph(exported.model, "int8")]
    found = [list(integer_weights(graph.graph)) for graph in graphs]
    assert all(found), "every graph has products of integers"
    return [weight for group in found for weight in group]


def test_no_sum_is_cut_on_any_processor(weights: list[np.ndarray]) -> None:
    for weight in weights:
        left = extreme_bytes(weight, ZERO)
        np.testing.assert_array_equal(sums_without_vnni(left, weight), exact_sums(left, weight))


def test_signed_bytes_would_be_cut(weights: list[np.ndarray]) -> None:
    """The same numbers as signed bytes are what an older processor says something else of."""
    cut = 0
    for weight in weights:
        signed = (weight.astype(int) - ZERO).astype(np.int8)
        left = extreme_bytes(signed, 0)
        cut += (sums_without_vnni(left, signed) != exact_sums(left, signed)).any()
    assert cut == len(weights)


def test_onnx_runtime_adds_up_exactly_here(weights: list[np.ndarray]) -> None:
    """By the kernels of whatever processor the test runs on, for one row and for many."""
    from onnx import TensorProto, helper

    for weight in weights:
        K, N = weight.shape
        graph = helper.make_graph(
            [helper.make_node("MatMulInteger", ["left", "weight", "", "zero"], ["sums"])],
            "product",
            [helper.make_tensor_value_info("left", TensorProto.UINT8, ["M", K])],
            [helper.make_tensor_value_info("sums", TensorProto.INT32, ["M", N])],
            [
                onnx.numpy_helper.from_array(weight, "weight"),
                onnx.numpy_helper.from_array(np.full(N, ZERO, np.uint8), "zero"),
            ],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        left = extreme_bytes(weight, ZERO)
        for rows in (left, left[:1]):
            (found,) = session.run(None, {"left": rows})
            np.testing.assert_array_equal(found, exact_sums(rows, weight.astype(int) - ZERO))


def test_rounding_is_half_a_step_at_most() -> None:
    matrix = np.random.default_rng(0).normal(size=(5, 33)).astype(np.float32)
    matrix[0], matrix[1] = 0, 1e-30
    integers, scale = round_rows(matrix)
    back = (integers.astype(np.float32) - ZERO) * scale[:, None]
    assert integers.dtype == np.uint8
    assert integers.min() >= ZERO - LARGEST
    assert (np.abs(back - matrix) <= scale[:, None] * 0.5001).all()
    assert np.abs(integers[2:].astype(int) - ZERO).max(axis=1).tolist() == [LARGEST] * 3
