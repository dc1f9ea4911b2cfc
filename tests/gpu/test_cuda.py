"""On a CUDA device: every way of computing against the equations in float64, and against the CPU.

`python -m pytest -m gpu`. `test_graph.py` runs what it can of them without a device, by a recorder.
"""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration
from bahdanau_hf.modeling.recurrence_bahdanau import run_gru
from tests.helpers.batches import SIDES, SOURCES, batch, pad
from tests.helpers.decisive_model import decisive
from tests.helpers.recurrences import SIZES, Problem, Sizes, assert_relatively_close, gradients

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

BOUNDS = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
LARGE = Sizes(37, 23, 19, 24, 136, 72, 48)  # several programs, tiles and rows of filling


@pytest.fixture(autouse=True)
def as_in_use() -> Iterator[None]:
    """cuBLAS asks for an environment variable in the tests' deterministic mode."""
    torch.use_deterministic_algorithms(False)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(True)


def moved(problem: Problem, device: str, dtype: torch.dtype) -> Problem:
    """The same numbers elsewhere, in another type."""

    def move(x: torch.Tensor | None, dtype: torch.dtype = dtype) -> torch.Tensor | None:
        return None if x is None else x.detach().to(device, dtype)

    other = copy.copy(problem)
    other.leaves = {
        name: move(leaf).requires_grad_(leaf.requires_grad) for name, leaf in problem.leaves.items()
    }
    other.masks = type(problem.masks)(*map(move, problem.masks))
    wide = torch.promote_types(dtype, torch.float32)
    other.hold = move(problem.hold, wide)
    other.bias = torch.zeros(problem.visible.shape, dtype=wide).masked_fill(
        ~problem.visible, torch.finfo(wide).min
    ).to(device)  # fmt: skip
    return other


def scaled(problem: Problem) -> Problem:
    """With weights as small as a model's, so that rounding does not grow from step to step."""
    with torch.no_grad():
        for name, leaf in problem.leaves.items():
            if leaf.dim() == 2 and name not in ("embeddings", "annotations"):
                leaf /= leaf.shape[1] ** 0.5
    return problem


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("sizes", [*SIZES, LARGE], ids=str)
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("attention", [True, False], ids=["attention", "plain"])
@pytest.mark.parametrize("extras", [True, False], ids=["dropout-hold", "bare"])
def test_values_and_gradients(sizes, num_layers, attention, extras, dtype) -> None:
    """Relative to the same rounded numbers, computed on in float64."""
    problem = scaled(Problem(sizes, num_layers, attention, extras, extras, extras))
    narrow = moved(problem, "cuda", dtype)
    exact = moved(narrow, "cpu", torch.float64)
    expected, actual = exact.run("reference"), narrow.run("fast")
    bound = BOUNDS[dtype]
    assert_relatively_close(actual.states.double().cpu(), expected.states, "states", bound)
    if attention:
        assert_relatively_close(actual.weights.double().cpu(), expected.weights, "weights", bound)
    wanted = gradients(exact, expected)
    total = torch.zeros((), dtype=torch.float64, device="cuda")
    generator = torch.Generator().manual_seed(5)
    for result in (actual.states, actual.weights):
        if result is not None:
            weights = torch.randn(result.shape, generator=generator, dtype=torch.float64)
            total = total + (result * weights.cuda()).sum()
    found = torch.autograd.grad(total, list(narrow.leaves.values()), allow_unused=True)
    for (name, grad), other in zip(wanted.items(), found, strict=True):
        if grad is None or not grad.any():
            assert other is None or not other.any(), name
        else:
            # A softmax over one place has no gradient but rounding.
            scale = max(grad.abs().max().item(), 1e-3)
            error = (other.double().cpu() - grad).abs().max().item() / scale
            assert error <= 5 * bound, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_training_under_autocast(dtype) -> None:
    torch.manual_seed(0)
    config = BahdanauConfig(vocab_size=13, encoder_vocab_size=17, embedding_size=40, hidden_size=72)
    exact = BahdanauForConditionalGeneration(config).double()
    model = copy.deepcopy(exact).float().cuda()
    expected = exact(**batch()).loss
    expected.backward()
    with torch.autocast("cuda", dtype):
        loss = model(**{name: x.cuda() for name, x in batch().items()}).loss
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=0.02)
    for (name, mine), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
        error = (mine.grad.double().cpu() - theirs.grad).norm() / theirs.grad.norm()
        assert error < 0.1, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_the_encoder_by_cudnn(variant, side, training) -> None:
    """Padding on any side, both directions; and gradients where the model is not in training."""
    from tests.helpers.tiny_model import make_model

    model = make_model(**variant).train(training)
    device = copy.deepcopy(model).cuda()
    sides = batch(side)
    outputs = model(**sides, output_hidden_states=True)
    theirs = device(**{name: x.cuda() for name, x in sides.items()}, output_hidden_states=True)
    for mine, other in zip(
        outputs.encoder_hidden_states, theirs.encoder_hidden_states, strict=True
    ):
        assert_relatively_close(other.cpu(), mine, "annotations", 1e-10)
    outputs.loss.backward()
    theirs.loss.backward()
    for (name, mine), other in zip(model.named_parameters(), device.parameters(), strict=True):
        assert_relatively_close(other.grad.cpu(), mine.grad, name, 1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_a_gru_layer_in_half_weights_and_autocast(dtype) -> None:
    layer = torch.nn.GRU(20, 24).cuda()
    x = torch.randn(9, 5, 20, device="cuda")
    exact = run_gru(x.double().cpu(), copy.deepcopy(layer).double().cpu())
    narrow = run_gru(x.to(dtype), copy.deepcopy(layer).to(dtype))
    assert narrow.dtype == dtype
    assert_relatively_close(narrow.double().cpu(), exact, "states", BOUNDS[dtype])
    if dtype != torch.float32:
        with torch.autocast("cuda", dtype):
            cast = run_gru(x, layer)
        assert_relatively_close(cast.double().cpu(), exact, "states", BOUNDS[dtype])


def generated(model: BahdanauForConditionalGeneration, **call: Any) -> list[list[int]]:
    device = model.device
    return model.generate(
        **{name: x.to(device) if hasattr(x, "to") else x for name, x in call.items()}
    ).tolist()


@pytest.mark.parametrize("num_beams", [1, 4])
def test_tokens(model, num_beams) -> None:
    """float64: the CPU's, by the ordinary search and by graphs, at several sizes and again."""
    decisive(model)
    device = copy.deepcopy(model).cuda()
    for most, side, sentences in (
        (9, "left", SOURCES),
        (12, "right", SOURCES[:3]),
        (9, "right", SOURCES),
    ):
        ids, mask = pad(sentences, side)
        call = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": most}
        call["num_beams"] = num_beams
        expected = generated(model, **call)
        for implementation in ("fast", "graph", "graph"):
            device.set_implementation(implementation)
            assert generated(device, **call) == expected


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_graphs_give_the_ordinary_tokens_in_every_format(dtype, num_beams) -> None:
    torch.manual_seed(0)
    config = BahdanauConfig(
        vocab_size=301, embedding_size=64, hidden_size=128, initializer_range=2.0
    )
    model = decisive(BahdanauForConditionalGeneration(config).eval()).to("cuda", dtype)
    ids = torch.randint(4, 301, (31, 7))
    outputs = []
    for implementation in ("fast", "graph"):
        model.set_implementation(implementation)
        outputs.append(generated(model, input_ids=ids, num_beams=num_beams, max_new_tokens=12))
    # Rounding decides where two words are nearly as likely.
    different = sum(a != b for a, b in zip(*outputs, strict=True))
    assert different <= (1 if dtype == torch.float32 else 6)


def test_graphs_see_changed_weights() -> None:
    torch.manual_seed(0)
    config = BahdanauConfig(vocab_size=31, embedding_size=8, hidden_size=16, initializer_range=2.0)
    model = decisive(BahdanauForConditionalGeneration(config).double().eval()).cuda()
    call = {"input_ids": torch.randint(4, 31, (5, 6)), "max_new_tokens": 9}
    seen = []
    for change in (False, True, True):
        if change:
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter += 0.5 * torch.randn_like(parameter)
        outputs = []
        for implementation in ("fast", "graph"):
            model.set_implementation(implementation)
            outputs.append(generated(model, **call))
        assert outputs[0] == outputs[1]
        seen.append(outputs[0])
    assert seen[0] != seen[1] != seen[2]
