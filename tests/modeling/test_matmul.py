"""Matrix products: through oneDNN, with weights laid out, in 8 bits, and with the loss."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import assert_close

from bahdanau_hf.modeling import matmul_bahdanau
from bahdanau_hf.modeling.matmul_bahdanau import (
    SMALLEST,
    Int8Product,
    linear,
    linear_cross_entropy,
    make_product,
    multiply,
    multiply_turned,
)
from bahdanau_hf.modeling.processor_bahdanau import processor
from tests.helpers.pretences import pretending

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
    with pretending(bfloat16=True):
        y = product(x, weight, bias)
    assert not onednn_calls
    assert y.dtype == dtype
    expected = F.linear(x, weight, bias)
    assert torch.equal(y, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("product", [multiply, linear])
def test_types_without_hardware_are_widened(product, dtype) -> None:
    """To be rounded once, at the end."""
    x, weight, bias = (torch.randn(s, dtype=dtype) for s in ((67, 131), (257, 131), (257,)))
    with pretending(bfloat16=False, float16=False):
        y = product(x, weight, bias)
    assert y.dtype == dtype
    assert torch.equal(y, multiply(x.float(), weight.float(), bias.float()).to(dtype))


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
    with pretending(bfloat16=True), torch.autocast("cpu", torch.bfloat16):
        y = linear(x, weight)
        expected = F.linear(x, weight)
    assert y.dtype == torch.bfloat16
    assert torch.equal(y, expected)
    y.float().sum().backward()
    assert weight.grad is not None
    assert not onednn_calls


def test_autocast_without_hardware_is_float32() -> None:
    x, weight = torch.randn(67, 131), torch.randn(257, 131, requires_grad=True)
    with pretending(bfloat16=False), torch.autocast("cpu", torch.bfloat16):
        y = linear(x.bfloat16(), weight)
    assert y.dtype == torch.float32
    assert torch.equal(y, linear(x.bfloat16().float(), weight))
    y.sum().backward()
    assert weight.grad.dtype == torch.float32


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
    product = matmul_bahdanau._Linear.apply
    assert torch.autograd.gradcheck(product, tuple(tensors)), "what large products go through"


@NEEDS_ONEDNN
def test_a_models_layers_take_it_if_they_are_as_built(tiny_model, onednn_calls) -> None:
    model, layer, x = tiny_model(), nn.Linear(131, 257), torch.randn(4, 17, 131)
    expected = layer(x)
    assert_close(model.project(layer, x), expected, **CLOSE)
    assert len(onednn_calls) == 1
    model.set_implementation("reference")
    assert torch.equal(model.project(layer, x), expected)
    model.set_implementation("fast")
    layer.register_forward_hook(lambda layer, given, y: 2 * y)
    assert torch.equal(model.project(layer, x), 2 * expected)
    assert len(onednn_calls) == 1


# Weights laid out


@pytest.mark.parametrize("rows", [1, 2, 64, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("form", ["rows", "slice"])
def test_packed_products(rows, dtype, form) -> None:
    whole, bias = torch.randn(401, 300).to(dtype), torch.randn(401).to(dtype)
    weight = whole[:, 20:] if form == "slice" else whole
    x = torch.randn(rows, weight.shape[1])
    y = make_product(weight, bias, dtype, pack=True)(x)
    assert y.dtype == torch.promote_types(dtype, torch.float32)
    expected = F.linear(x.to(dtype).double(), weight.double(), bias.double())
    tolerance = 2e-2 if dtype == torch.bfloat16 else 1e-5
    assert_close(y.double(), expected, rtol=tolerance, atol=tolerance * 30)


@pytest.mark.skipif(not processor().int8, reason="PyTorch has no 8-bit products here")
@pytest.mark.parametrize("with_bias", [True, False])
@pytest.mark.parametrize("rows", [1, 5, 70])
def test_eight_bits_by_whole_numbers(rows, with_bias) -> None:
    """The same in integers: even the largest sums are exact. And rows do not see each other."""
    weight, bias = torch.randn(37, 300), torch.randn(37) if with_bias else None
    weight[:5], weight[5] = weight[:5].sign(), 0.0
    scales = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-30) / 127
    weight = without_halves(weight / scales) * scales
    x = torch.randn(rows, 300)
    x[0] = weight[0]
    x[rows // 2, 1:] *= 1e-6
    for within_one in (False, True):
        x = x.clamp(-1, 1) if within_one else 10 * x
        product = Int8Product(weight, bias, within_one)
        scale = (1.0 if within_one else x.abs().amax(dim=1, keepdim=True)) / product.largest
        x = without_halves(x / scale) * scale
        whole_x, whole_weight = ((x / scale).round(), (weight / scales).round())
        expected = whole_x.double() @ whole_weight.double().t() * (scales.t() * scale).double()
        expected = expected if bias is None else expected + bias
        y = product(x)
        assert_close(y.double(), expected, rtol=1e-5, atol=1e-4)
        for i in range(rows):
            assert torch.equal(product(x[i : i + 1])[0], y[i])


def without_halves(x: Tensor) -> Tensor:
    """Nothing whose rounding hangs on the last bit: which way a half goes is not asked."""
    return torch.where(((x.frac().abs() - 0.5).abs() < 1e-3), x.round(), x)


# The output layer and its loss


def leaves(num_rows: int, width: int, vocab_size: int, dtype=torch.float64) -> list[Tensor]:
    shapes = [(num_rows, width), (vocab_size, width), (vocab_size,)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def two_steps(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, smoothing: float = 0.0
) -> Tensor:
    """The logits of all rows, and then PyTorch's loss of them."""
    logits = F.linear(hidden, weight, bias)
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)


@pytest.mark.parametrize("num_rows", [1, 6, 7, 8, 23])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("with_bias", [True, False])
def test_the_loss_is_that_of_two_steps(num_rows, smoothing, with_bias, monkeypatch) -> None:
    """Below, at and above the size of a chunk."""
    monkeypatch.setattr(matmul_bahdanau, "ROWS_PER_CHUNK", 7)
    tensors = leaves(num_rows, 5, 11)
    wanted = tensors if with_bias else tensors[:2]
    tensors[2] = tensors[2] if with_bias else None
    labels = torch.randint(11, (num_rows,))
    expected = two_steps(*tensors, labels, smoothing)
    actual = linear_cross_entropy(*tensors, labels, smoothing)
    assert_close(actual, expected, rtol=1e-12, atol=0)
    grads = [torch.autograd.grad(3 * loss, wanted) for loss in (expected, actual)]
    for one, other in zip(*grads, strict=True):
        assert_close(other, one, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradcheck_of_the_loss(smoothing) -> None:
    tensors = leaves(4, 3, 5)
    labels = torch.tensor([4, 0, 0, 2])
    assert torch.autograd.gradcheck(
        lambda *x: linear_cross_entropy(*x, labels, smoothing), tuple(tensors)
    )


def test_values_known_by_heart() -> None:
    """Equal logits cost log V a word, smoothed or not; a sure and right word costs nothing."""
    zeros = torch.zeros(3, 2).double(), torch.zeros(8, 2).double(), torch.zeros(8).double()
    labels = torch.tensor([0, 7, 7])
    for smoothing in (0.0, 0.5):
        loss = linear_cross_entropy(*zeros, labels, smoothing)
        assert_close(loss.item(), 3 * torch.tensor(8.0).double().log().item())
    bias = torch.tensor([0.0, 1e4, 0.0]).double()
    sure = torch.zeros(1, 2).double(), torch.zeros(3, 2).double(), bias
    assert linear_cross_entropy(*sure, torch.tensor([1])) == 0
    assert linear_cross_entropy(*sure, torch.tensor([0])) == 1e4


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_frozen_leaves(frozen) -> None:
    tensors = leaves(4, 3, 5)
    tensors[frozen].requires_grad_(False)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    labels = torch.randint(5, (4,))
    grads = [
        torch.autograd.grad(loss(*tensors, labels, 0.1), wanted)
        for loss in (two_steps, linear_cross_entropy)
    ]
    for one, other in zip(*grads, strict=True):
        assert_close(other, one, rtol=1e-11, atol=1e-13)


def test_no_rows() -> None:
    tensors = leaves(0, 3, 5)
    loss = linear_cross_entropy(*tensors, torch.empty(0, dtype=torch.long), 0.1)
    loss.backward()
    assert loss == 0
    assert all(not tensor.grad.any() for tensor in tensors)


def test_without_gradients() -> None:
    tensors, labels = leaves(4, 3, 5), torch.randint(5, (4,))
    with torch.no_grad():
        quiet = linear_cross_entropy(*tensors, labels, 0.1)
    assert not quiet.requires_grad
    assert_close(quiet, linear_cross_entropy(*tensors, labels, 0.1))


@pytest.mark.parametrize("in_hardware", [True, False])
def test_the_loss_under_autocast(in_hardware) -> None:
    tensors, labels = leaves(9, 4, 6, torch.float32), torch.randint(6, (9,))
    exact = two_steps(*tensors, labels, 0.1)
    with pretending(bfloat16=in_hardware), torch.autocast("cpu", dtype=torch.bfloat16):
        loss = linear_cross_entropy(*tensors, labels, 0.1)
    assert loss.dtype == torch.float32
    bound = 0.03 if in_hardware else 1e-5  # without it the products are taken in float32
    assert_close(loss, exact, rtol=bound, atol=bound)
    grads = torch.autograd.grad(loss, tensors)
    for grad, expected in zip(grads, torch.autograd.grad(exact, tensors), strict=True):
        assert grad.dtype == torch.float32
        assert_close(grad, expected, rtol=0.1, atol=0.05)
