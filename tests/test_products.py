"""Matrix products by oneDNN: PyTorch's values and gradients, and when they are taken at all."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.testing import assert_close

from bahdanau_hf import products_bahdanau
from bahdanau_hf.products_bahdanau import (
    SMALLEST,
    Linear,
    linear,
    multiply,
    multiply_turned,
)

# Both sides of the threshold, at it, and sizes that no vector width divides.
SHAPES = [
    (1, 1, 1),
    (3, 5, 7),
    (17, 251, 241),  # just below
    (16, 256, 256),  # at it
    (19, 251, 241),  # just above
    (130, 97, 131),
    (2, 1031, 517),
    (1, 1031, 1033),
]
CLOSE = {"rtol": 1e-5, "atol": 1e-4}  # float32 sums in two orders
NEEDS_ONEDNN = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch comes without oneDNN"
)


@pytest.fixture
def onednn_calls(monkeypatch) -> list[tuple[Tensor, Tensor]]:
    """The operands of every product that oneDNN was asked for."""
    calls: list[tuple[Tensor, Tensor]] = []
    product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
    if product is not None:

        def record(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
            calls.append((x, weight))
            return product(x, weight, *rest)

        monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", record)
    return calls


def strided(rows: int, columns: int, form: str) -> Tensor:
    """The same numbers for every form: laid out in another way, never in another order."""
    x = torch.randn(rows, columns)
    if form == "columns":
        return x.t().contiguous().t()
    if form == "slice":
        wide = torch.full((rows, columns + 3), float("nan"))
        wide[:, 1 : columns + 1] = x
        return wide[:, 1 : columns + 1]
    if form == "slice of columns":
        wide = torch.full((columns, rows + 3), float("nan"))
        wide[:, :rows] = x.t()
        return wide[:, :rows].t()
    if form == "every other row":
        wide = torch.full((2 * rows, columns), float("nan"))
        wide[::2] = x
        return wide[::2]
    return x


FORMS = ["rows", "columns", "slice", "slice of columns", "every other row"]


def reference(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x.double(), weight.double(), None if bias is None else bias.double()).float()


# Values


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("rows", "out", "width"), SHAPES)
def test_multiply(rows, out, width, with_bias) -> None:
    x, weight = torch.randn(rows, width), torch.randn(out, width)
    bias = torch.randn(out) if with_bias else None
    assert_close(multiply(x, weight, bias), reference(x, weight, bias), **CLOSE)


@pytest.mark.parametrize("weight_form", FORMS)
@pytest.mark.parametrize("x_form", FORMS)
@pytest.mark.parametrize("rows", [5, 67])
def test_multiply_whatever_the_strides(rows, x_form, weight_form) -> None:
    """Operands are read as they are, and nothing beside a slice is read."""
    x, weight, bias = strided(rows, 131, x_form), strided(257, 131, weight_form), torch.randn(257)
    before = x.clone(), weight.clone()
    assert_close(multiply(x, weight, bias), reference(x, weight, bias), **CLOSE)
    assert torch.equal(x, before[0])
    assert torch.equal(weight, before[1])


@pytest.mark.parametrize("columns", [(1031, 37), (37, 1031), (251, 241), (3, 5)])
@pytest.mark.parametrize("forms", [("rows", "columns"), ("slice", "every other row")])
def test_multiply_turned(columns, forms) -> None:
    """The wider operand first and last, of sizes for either library."""
    x, y = strided(131, columns[0], forms[0]), strided(131, columns[1], forms[1])
    product = multiply_turned(x, y)
    assert product.shape == columns
    assert_close(product.double(), x.double().t() @ y.double(), rtol=1e-5, atol=1e-4)


@NEEDS_ONEDNN
def test_the_narrower_operand_is_turned(onednn_calls) -> None:
    """Whichever oneDNN gets first is written out anew."""
    wide, narrow = torch.randn(512, 4000), torch.randn(512, 32)
    multiply_turned(wide, narrow)
    multiply_turned(narrow, wide)
    assert [x.shape[0] for x, _ in onednn_calls] == [32, 32]


@NEEDS_ONEDNN
@pytest.mark.parametrize("form", ["slice", "slice of columns", "every other row"])
def test_no_gaps_reach_onednn(form, onednn_calls) -> None:
    """Across the gaps of a slice it is very slow."""
    x, weight = strided(67, 131, form), strided(257, 131, form)
    assert not weight.is_contiguous()
    assert not weight.t().is_contiguous()
    multiply(x, weight)
    for operand in onednn_calls[0]:
        assert operand.is_contiguous() or operand.t().is_contiguous()


@NEEDS_ONEDNN
@pytest.mark.parametrize("transposed", [False, True])
def test_what_has_no_gaps_is_not_copied(transposed, onednn_calls) -> None:
    x, weight = torch.randn(67, 131), strided(257, 131, "columns" if transposed else "rows")
    multiply(x, weight)
    assert onednn_calls[0][0].data_ptr() == x.data_ptr()
    assert onednn_calls[0][1].data_ptr() == weight.data_ptr()


# Which library


@NEEDS_ONEDNN
def test_the_threshold(onednn_calls) -> None:
    assert SMALLEST % (16 * 256) == 0
    width = SMALLEST // (16 * 256)
    multiply(torch.randn(16, width - 1), torch.randn(256, width - 1))
    assert not onednn_calls
    multiply(torch.randn(16, width), torch.randn(256, width))
    assert len(onednn_calls) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("product", [multiply, linear])
def test_other_types_are_pytorchs_to_the_bit(product, dtype, onednn_calls) -> None:
    x, weight, bias = (torch.randn(s, dtype=dtype) for s in ((67, 131), (257, 131), (257,)))
    y = product(x, weight, bias)
    assert not onednn_calls
    assert y.dtype == dtype
    expected = F.linear(x, weight, bias)
    assert torch.equal(y, expected)


@pytest.mark.filterwarnings("ignore:TF32 acceleration")
@pytest.mark.parametrize("product", [multiply, linear])
def test_without_onednn(product, onednn_calls) -> None:
    with torch.backends.mkldnn.flags(enabled=False):
        x, weight = torch.randn(67, 131), torch.randn(257, 131)
        assert_close(product(x, weight), reference(x, weight, None), **CLOSE)
    assert not onednn_calls


def test_autocast_is_pytorchs(onednn_calls) -> None:
    """The lower precision takes the way it took before, gradients included."""
    x, weight = torch.randn(67, 131), torch.randn(257, 131, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        y = linear(x, weight)
        expected = F.linear(x, weight)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    y.float().sum().backward()
    assert weight.grad is not None
    assert not onednn_calls


def test_twice_the_same_bits() -> None:
    x, weight = torch.randn(67, 131), torch.randn(257, 131)
    assert torch.equal(multiply(x, weight), multiply(x.clone(), weight.clone()))


# Gradients


def gradients(product: Callable[..., Tensor], tensors: list[Tensor], grad: Tensor) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in tensors]
    return list(torch.autograd.grad(product(*leaves), leaves, grad))


@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize(("rows", "out", "width"), SHAPES)
def test_gradients(rows, out, width, with_bias) -> None:
    shapes = [(rows, width), (out, width)] + [(out,)] * with_bias
    tensors, grad = [torch.randn(shape) for shape in shapes], torch.randn(rows, out)
    expected = gradients(F.linear, [x.double() for x in tensors], grad.double())
    for one, other in zip(gradients(linear, tensors, grad), expected, strict=True):
        assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(67,), (4, 17), (2, 3, 11), (0,), (0, 3), (1,)])
def test_leading_dimensions(shape) -> None:
    tensors = [torch.randn(*shape, 131), torch.randn(257, 131), torch.randn(257)]
    y = linear(*tensors)
    assert y.shape == (*shape, 257)
    assert_close(y, F.linear(*tensors), **CLOSE)
    grad = torch.randn(*shape, 257)
    for one, other in zip(
        gradients(linear, tensors, grad), gradients(F.linear, tensors, grad), strict=True
    ):
        assert_close(one, other, rtol=1e-4, atol=1e-3)


@NEEDS_ONEDNN
def test_gradients_of_a_slice(onednn_calls) -> None:
    """A part of a matrix, as the decoder's first layer has it; its other part gets none."""
    whole = torch.randn(257, 200, requires_grad=True)
    x = torch.randn(67, 131, requires_grad=True)
    grad = torch.randn(67, 257)
    linear(x, whole[:, 69:]).backward(grad)
    assert len(onednn_calls) == 3
    expected = gradients(F.linear, [x, whole[:, 69:]], grad)
    assert_close(x.grad, expected[0], rtol=1e-4, atol=1e-3)
    assert_close(whole.grad[:, 69:], expected[1], rtol=1e-4, atol=1e-3)
    assert not whole.grad[:, :69].any()


@NEEDS_ONEDNN
@pytest.mark.parametrize("needed", ["x", "weight", "bias"])
def test_no_gradient_that_nobody_needs(needed, onednn_calls) -> None:
    tensors = {"x": torch.randn(67, 131), "weight": torch.randn(257, 131), "bias": torch.randn(257)}
    tensors[needed].requires_grad_()
    grad = torch.randn(67, 257)
    linear(**tensors).backward(grad)
    assert len(onednn_calls) == (1 if needed == "bias" else 2)
    leaf = tensors[needed]
    (expected,) = torch.autograd.grad(F.linear(**tensors), leaf, grad)
    assert_close(leaf.grad, expected, rtol=1e-4, atol=1e-3)


@NEEDS_ONEDNN
def test_the_backward_pass_cannot_be_differentiated() -> None:
    """It says so, instead of giving zeros."""
    x, weight = torch.randn(67, 131, requires_grad=True), torch.randn(257, 131, requires_grad=True)
    (grad,) = torch.autograd.grad(linear(x, weight).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_gradcheck() -> None:
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((4, 3), (5, 3), 5)]
    assert torch.autograd.gradcheck(linear, tuple(tensors))
    product = products_bahdanau._Linear.apply
    assert torch.autograd.gradcheck(product, tuple(tensors)), "what large products go through"


def test_the_layer() -> None:
    layer, theirs = Linear(131, 257), torch.nn.Linear(131, 257)
    theirs.load_state_dict(layer.state_dict())
    x = torch.randn(4, 17, 131)
    assert_close(layer(x), theirs(x), **CLOSE)
    assert repr(layer) == repr(theirs)
