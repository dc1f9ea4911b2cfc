"""ONNX graphs written node by node, their products in float32 or in 8 bits.

Eight bits are unsigned here, so that they say the same everywhere. A processor of AVX2 or AVX-512
without VNNI multiplies unsigned by signed bytes with `vpmaddubsw`, which adds two products in 16
bits and cuts what does not fit, as 2 * 255 * 127 does not. Two unsigned bytes ONNX Runtime
multiplies exactly on every processor and in the browser.

Dimensions: K numbers in, N numbers out; B batch, H hidden.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

ZERO = 128  # the unsigned integer that stands for 0
LARGEST = 127  # steps from there to the largest number, in either direction

RUNTIME = "com.microsoft"  # operators that ONNX Runtime has beside the standard's


class EightBits(NamedTuple):
    """A matrix in 8 bits: `(integers - ZERO) * scale`, a scale for each row."""

    integers: np.ndarray  # uint8 (N, K), 1 to 255
    scale: np.ndarray  # float32 (N,)


def round_rows(matrix: np.ndarray) -> EightBits:
    """Round every row of `(N, K)` to 8 bits of its own scale."""
    largest = np.maximum(np.abs(matrix).max(axis=1), np.float32(1e-12))
    scale = (largest / LARGEST).astype(np.float32)
    return EightBits((np.rint(matrix / scale[:, None]) + ZERO).astype(np.uint8), scale)


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

    def constant(self, values: Any, dtype: Any = np.float32) -> str:
        """Store numbers, and return their name."""
        from onnx import numpy_helper

        if isinstance(values, Tensor):
            values = values.detach().numpy()
        name = f"{self.prefix}_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(values, dtype, order="C"), name))
        return name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node of one output, and return the output's name."""
        return self._append(kind, inputs, 1, attributes)[0]

    def split(self, x: str, sizes: list[int], axis: int = -1) -> list[str]:
        """Cut a dimension into pieces."""
        if len(sizes) == 1:
            return [x]
        inputs = (x, self.constant(sizes, np.int64))
        return self._append("Split", inputs, len(sizes), {"axis": axis})

    def _append(
        self, kind: str, inputs: tuple[str, ...], outputs: int, attributes: dict[str, Any]
    ) -> list[str]:
        from onnx import helper

        names = [f"{self.prefix}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, **attributes))
        return names

    def linear(self, weight: Any, bias: Any) -> LinearMap:
        """Store a linear map of the weight `(N, K)`."""
        weight = weight.detach().numpy() if isinstance(weight, Tensor) else weight
        if not self.int8:
            return LinearMap(self.constant(weight.T), "", self.constant(bias))
        integers, scale = round_rows(weight)
        names = self.constant(integers.T, np.uint8), self.constant(scale), self.constant(bias)
        return LinearMap(*names)

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
        matrix = matrix.detach().numpy() if isinstance(matrix, Tensor) else matrix
        if not self.int8:
            return self.constant(matrix)
        integers, scale = round_rows(matrix)
        # Not by DequantizeLinear, which ONNX Runtime would compute anew in every call.
        floats = self.op("Cast", self.constant(integers, np.uint8), to=1)
        centred = self.op("Sub", floats, self.constant(ZERO))
        return self.op("Mul", centred, self.constant(scale[:, None]))

    def update_state(self, x: tuple[str, str], s: tuple[str, str], state: str, size: int) -> str:
        """A GRU's next state, by the equations of `BahdanauGRUCell`.

        Args:
            x: what the input gives to the gates r and z, `(..., 2H)`, and to n, `(..., H)`.
            s: what the state gives to them.
            state: the state, `(..., H)`.
            size: H.
        """
        gates = self.op("Sigmoid", self.op("Add", x[0], s[0]))
        reset, update = self.split(gates, [size, size])
        new = self.op("Tanh", self.op("Add", x[1], self.op("Mul", reset, s[1])))
        return self.op("Add", new, self.op("Mul", update, self.op("Sub", state, new)))
