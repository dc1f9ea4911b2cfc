"""ONNX graphs written node by node, their products in float32 or in 8 bits.

Eight bits are unsigned here, so that they say the same everywhere. A processor of AVX2 or AVX-512
without VNNI multiplies unsigned by signed bytes with `vpmaddubsw`, which adds two products in 16
bits and cuts what does not fit, as 2 * 255 * 127 does not. Two unsigned bytes ONNX Runtime
multiplies exactly on every processor and in the browser.

Dimensions: K numbers in, N numbers out; B batch, H hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial, reduce
from typing import Any, NamedTuple

import numpy as np

ZERO = 128  # the unsigned integer that stands for 0
LARGEST = 127  # steps from there to the largest number, in either direction

RUNTIME = "com.microsoft"  # operators that ONNX Runtime has beside the standard's
_DTYPES: dict[str, Any] = {"f": np.float32, "i": np.int64}  # of constants, by their kind


def round_rows(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Round every row of `(N, K)` to 8 bits of its own scale.

    Returns:
        Integers, uint8 `(N, K)`, 1 to 255, and scales, float32 `(N,)`: the matrix is about
        `(integers - ZERO) * scale`.
    """
    largest = np.maximum(np.abs(matrix).max(axis=1), np.float32(1e-12))
    scale = (largest / LARGEST).astype(np.float32)
    return (np.rint(matrix / scale[:, None]) + ZERO).astype(np.uint8), scale


def swap_gates(x: Any) -> Any:
    """A GRU's weights or bias, array or tensor, from PyTorch's order r, z, n to ONNX's or back."""
    return x.reshape(3, -1)[[1, 0, 2]].reshape(x.shape)


class LinearMap(NamedTuple):
    """A linear map as names of constants."""

    weight: str  # (K, N)
    scale: str  # (N,) in 8 bits, else ""
    bias: str  # (N,)


class Nodes:
    """Nodes of a graph in the making.

    Args:
        prefix: how the names of what is made here begin.
        constants: where constants go; a graph inside of another one shares them.
        int8: keep matrices in 8 bits and multiply integers.
    """

    def __init__(self, prefix: str, constants: list[Any], int8: bool) -> None:
        self.prefix, self.constants, self.int8 = prefix, constants, int8
        self.nodes: list[Any] = []

    def constant(self, values: Any, dtype: Any = None) -> str:
        """Store numbers, an array or a tensor without gradients, and return their name.

        Whole numbers are stored in int64 and others in float32, unless the `dtype` is told.
        """
        from onnx import numpy_helper

        name = f"{self.prefix}_constant_{len(self.constants)}"
        array = np.asarray(values, dtype, order="C")
        if dtype is None:
            array = array.astype(_DTYPES.get(array.dtype.kind, array.dtype))
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def name(self, x: str, name: str) -> None:
        """Give x a name for the world outside."""
        from onnx import helper

        self.nodes.append(helper.make_node("Identity", [x], [name]))

    def op(self, kind: str, *inputs: Any, **attributes: Any) -> str:
        """Append a node of one output, and return the output's name.

        Inputs are names, or numbers, which become constants.
        """
        return self._append(kind, inputs, 1, attributes)[0]

    def split(self, x: str, sizes: list[int], axis: int = -1) -> list[str]:
        """Cut a dimension into pieces."""
        if len(sizes) == 1:
            return [x]
        return self._append("Split", (x, sizes), len(sizes), {"axis": axis})

    def columns(self, x: str, start: int, end: int | str) -> str:
        """A part of the second dimension; its end is a number or the name of one, `(1,)`."""
        return self.op("Slice", x, [start], end if isinstance(end, str) else [end], [1])

    def rows_of_ids(self, written: str) -> str:
        """Ids that a loop's steps have left, `(T, B, 1)`, as rows `(B, T)`."""
        return self.op("Transpose", self.op("Squeeze", written, [2]), perm=[1, 0])

    def largest(self, x: str, k: int) -> tuple[str, str]:
        """The k largest numbers of each row, the largest first, and their places."""
        values, places = self._append("TopK", (x, [k]), 2, {})
        return values, places

    def is_one_of(self, ids: str, wanted: list[int]) -> str:
        """Where ids are any of the wanted ones."""
        return reduce(partial(self.op, "Or"), [self.op("Equal", ids, one) for one in wanted])

    def any(self, x: str) -> str:
        """Whether any of x is true."""
        return self.op("Cast", self.op("ReduceMax", self.op("Cast", x, to=6), keepdims=0), to=9)

    def _append(
        self, kind: str, inputs: Sequence[Any], outputs: int, attributes: dict[str, Any]
    ) -> list[str]:
        from onnx import helper

        inputs = [x if isinstance(x, str) else self.constant(x) for x in inputs]
        names = [f"{self.prefix}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def linear(self, weight: Any, bias: Any) -> LinearMap:
        """Store a linear map of the weight `(N, K)`."""
        if not self.int8:
            return LinearMap(self.constant(weight.T), "", self.constant(bias))
        integers, scale = round_rows(np.asarray(weight))
        return LinearMap(*map(self.constant, (integers.T, scale, bias)))

    def multiply(self, x: str, by: LinearMap, within_one: bool = False) -> str:
        """Apply a linear map to the last dimension of x.

        If x is `within_one`, none of its numbers passes 1 in size and 8 bits need not look for the
        largest: what becomes of a row does not depend on the rows beside it.
        """
        if not by.scale:
            return self.op("Add", self.op("MatMul", x, by.weight), by.bias)
        zero = self.constant(ZERO, np.uint8)
        if not within_one:
            given = (x, by.weight, by.scale, zero, by.bias)
            return self.op("DynamicQuantizeMatMul", *given, domain=RUNTIME)
        step = self.constant(1 / LARGEST)
        integers = self.op("QuantizeLinear", x, step, zero)
        inputs = (integers, by.weight, step, by.scale, zero, zero, by.bias)
        return self.op("MatMulIntegerToFloat", *inputs, domain=RUNTIME)

    def stored(self, matrix: Any) -> str:
        """Store a matrix that is wanted in floats; of 8 bits they are made once, at loading."""
        if not self.int8:
            return self.constant(matrix)
        integers, scale = round_rows(np.asarray(matrix))
        # Not by DequantizeLinear, which ONNX Runtime would compute anew in every call.
        centred = self.op("Sub", self.op("Cast", integers, to=1), float(ZERO))
        return self.op("Mul", centred, scale[:, None])

    def update_state(self, x: tuple[str, str], s: tuple[str, str], state: str, size: int) -> str:
        """A GRU's next state, `(..., H)`, by the equations of `BahdanauGRUCell`; `size` is H.

        x is what the input gives to the gates r and z, `(..., 2H)`, and to n, `(..., H)`; s is what
        the state gives to them.
        """
        gates = self.op("Sigmoid", self.op("Add", x[0], s[0]))
        reset, update = self.split(gates, [size, size])
        new = self.op("Tanh", self.op("Add", x[1], self.op("Mul", reset, s[1])))
        return self.op("Add", new, self.op("Mul", update, self.op("Sub", state, new)))

    # --- a graph inside of this one --------------------------------------------------------------

    def inside(self, prefix: str) -> Nodes:
        """Begin a loop's step, which shares this graph's constants."""
        return Nodes(prefix, self.constants, self.int8)

    def given(self, count: int) -> list[str]:
        """Names of what this step of a loop is given."""
        return [f"{self.prefix}_given_{i}" for i in range(count)]

    def loop(
        self,
        step: Nodes,
        most: str,
        goes_on: str,
        first: list[str],
        results: list[str],
        written: list[str],
    ) -> list[str]:
        """Append a loop.

        Args:
            step: a step's nodes, which may ask for `iteration` and `condition`.
            most: how many steps there are at most.
            goes_on: what a step says of whether another one follows.
            first: what the first step is given.
            results: what a step gives to the next.
            written: what a step leaves behind.

        Returns:
            What all steps have left, along a new first dimension.
        """
        from onnx import TensorProto, helper

        goes_on = step.op("Identity", goes_on)  # a step may not give back what it was given itself
        body = step._body(step.given(len(first)), [goes_on, *results, *written])
        body.input.insert(0, helper.make_tensor_value_info("iteration", TensorProto.INT64, []))
        body.input.insert(1, helper.make_tensor_value_info("condition", TensorProto.BOOL, []))
        count = len(results) + len(written)
        return self._append("Loop", [most, "", *first], count, {"body": body})[len(results) :]

    def scan(
        self,
        step: Nodes,
        first: list[str],
        over: list[str],
        results: list[str],
        written: list[str],
        backwards: bool = False,
    ) -> list[str]:
        """Append a loop over the first dimension of what it goes `over`; the rest as `loop`."""
        body = step._body(step.given(len(first) + len(over)), [*results, *written])
        attributes = {
            "body": body,
            "num_scan_inputs": len(over),
            "scan_input_directions": [int(backwards)] * len(over),
            "scan_output_directions": [int(backwards)] * len(written),
        }
        count = len(results) + len(written)
        return self._append("Scan", [*first, *over], count, attributes)[len(results) :]

    def _body(self, given: list[str], found: list[str]) -> Any:
        from onnx import helper

        # Types and shapes are read off the graph around it.
        inputs, outputs = (
            [helper.make_empty_tensor_value_info(name) for name in names]
            for names in (given, found)
        )
        return helper.make_graph(self.nodes, self.prefix, inputs, outputs)
