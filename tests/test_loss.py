"""Output layer and cross-entropy in one: against PyTorch's, values and gradients."""

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from bahdanau_hf import loss_bahdanau
from bahdanau_hf.loss_bahdanau import cross_entropy


def leaves(num_rows: int, width: int, vocab_size: int, dtype=torch.float64) -> list[Tensor]:
    shapes = [(num_rows, width), (vocab_size, width), (vocab_size,)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


@pytest.mark.parametrize("num_rows", [1, 6, 7, 8, 23])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_fast_is_reference(num_rows, smoothing, monkeypatch) -> None:
    """Below, at and above the size of a chunk."""
    monkeypatch.setattr(loss_bahdanau, "ROWS_PER_CHUNK", 7)
    tensors = leaves(num_rows, 5, 11)
    labels = torch.randint(11, (num_rows,))
    expected = cross_entropy(*tensors, labels, smoothing, "reference")
    actual = cross_entropy(*tensors, labels, smoothing, "fast")
    assert_close(actual, expected, rtol=1e-12, atol=0)
    grads = [torch.autograd.grad(3 * loss, tensors) for loss in (expected, actual)]
    for one, other in zip(*grads, strict=True):
        assert_close(other, one, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_gradcheck(smoothing) -> None:
    tensors = leaves(4, 3, 5)
    labels = torch.tensor([4, 0, 0, 2])
    assert torch.autograd.gradcheck(
        lambda *x: cross_entropy(*x, labels, smoothing, "fast"), tuple(tensors)
    )


@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_values_known_by_heart(implementation) -> None:
    """Equal logits cost log V a word, smoothed or not; a sure and right word costs nothing."""
    zeros = torch.zeros(3, 2).double(), torch.zeros(8, 2).double(), torch.zeros(8).double()
    labels = torch.tensor([0, 7, 7])
    for smoothing in (0.0, 0.5):
        loss = cross_entropy(*zeros, labels, smoothing, implementation)
        assert_close(loss.item(), 3 * torch.tensor(8.0).double().log().item())
    bias = torch.tensor([0.0, 1e4, 0.0]).double()
    sure = torch.zeros(1, 2).double(), torch.zeros(3, 2).double(), bias
    assert cross_entropy(*sure, torch.tensor([1]), 0.0, implementation) == 0
    assert cross_entropy(*sure, torch.tensor([0]), 0.0, implementation) == 1e4


@pytest.mark.parametrize("frozen", [0, 1, 2])
def test_frozen_leaves(frozen) -> None:
    tensors = leaves(4, 3, 5)
    tensors[frozen].requires_grad_(False)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    labels = torch.randint(5, (4,))
    grads = [
        torch.autograd.grad(cross_entropy(*tensors, labels, 0.1, implementation), wanted)
        for implementation in ("reference", "fast")
    ]
    for one, other in zip(*grads, strict=True):
        assert_close(other, one, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_no_rows(implementation) -> None:
    tensors = leaves(0, 3, 5)
    loss = cross_entropy(*tensors, torch.empty(0, dtype=torch.long), 0.1, implementation)
    loss.backward()
    assert loss == 0
    assert all(not tensor.grad.any() for tensor in tensors)


def test_without_gradients() -> None:
    tensors, labels = leaves(4, 3, 5), torch.randint(5, (4,))
    with torch.no_grad():
        quiet = cross_entropy(*tensors, labels, 0.1, "fast")
    assert not quiet.requires_grad
    assert_close(quiet, cross_entropy(*tensors, labels, 0.1, "fast"))


def test_the_door() -> None:
    tensors, labels = leaves(4, 3, 5), torch.randint(5, (4,))
    assert torch.equal(
        cross_entropy(*tensors, labels), cross_entropy(*tensors, labels, implementation="fast")
    )
    with pytest.raises(ValueError, match="not 'slow'"):
        cross_entropy(*tensors, labels, implementation="slow")


@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_autocast(implementation) -> None:
    tensors, labels = leaves(9, 4, 6, torch.float32), torch.randint(6, (9,))
    exact = cross_entropy(*tensors, labels, 0.1, "reference")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = cross_entropy(*tensors, labels, 0.1, implementation)
    assert loss.dtype == torch.float32
    assert_close(loss, exact, rtol=0.03, atol=0.03)
    grads = torch.autograd.grad(loss, tensors)
    for grad, expected in zip(grads, torch.autograd.grad(exact, tensors), strict=True):
        assert grad.dtype == torch.float32
        assert_close(grad, expected, rtol=0.1, atol=0.05)
