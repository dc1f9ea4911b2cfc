"""The Triton kernel, run by Triton's interpreter, against the equations: values and gradients.

The interpreter does the kernel's arithmetic in NumPy, one program after the other. What it cannot
show: whether the compiler takes the kernel (`test_the_compiler_takes_it` asks that), what bfloat16
products give, and whether a program's threads see each other's writes in time; see `test_gpu.py`.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bahdanau_hf.gpu import triton_recurrence
from bahdanau_hf.modeling import modeling_bahdanau
from bahdanau_hf.modeling.modeling_bahdanau import DropoutMasks, default_implementation
from tests.helpers.batches import batch
from tests.modeling.test_recurrence import SIZES, Problem, Sizes, assert_relatively_close, gradients

triton = pytest.importorskip("triton", reason="the package triton is not there (extra [gpu])")
pytestmark = [
    pytest.mark.usefixtures("ways_of_gpus"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="test_gpu.py runs the real one"),
    pytest.mark.filterwarnings("ignore:overflow encountered in exp:RuntimeWarning"),
]

ROOT = Path(__file__).parents[2]
SMALL = Sizes(3, 4, 3, 2, 7, 6, 9)
MANY_ROWS = Sizes(19, 3, 2, 4, 18, 17, 6)  # two programs, two tiles of columns


@pytest.fixture(autouse=True)
def refusals(monkeypatch) -> list[str]:
    """What the kernel did not take, and why."""
    reasons: list[str] = []
    monkeypatch.setattr(triton_recurrence.logger, "warning_once", reasons.append)
    return reasons


def assert_same(problem: Problem, use: str = "both", bound: float = 3e-5) -> None:
    """The equations in float64 and the kernel in float32."""
    kernel = problem.run("triton")
    exact = Problem.__new__(Problem)
    exact.__dict__ |= problem.__dict__
    exact.leaves = {
        name: leaf.detach().double().requires_grad_(leaf.requires_grad)
        for name, leaf in problem.leaves.items()
    }
    wide = lambda x: None if x is None else x.double()  # noqa: E731
    exact.masks = DropoutMasks(*map(wide, problem.masks))
    exact.hold, exact.bias = wide(problem.hold), wide(problem.bias)
    reference = exact.run("reference")
    assert_relatively_close(kernel.states.double(), reference.states, "states", bound)
    assert (kernel.weights is None) == (reference.weights is None)
    if reference.weights is not None:
        assert_relatively_close(kernel.weights.double(), reference.weights, "weights", bound)
    expected, actual = gradients(exact, reference, use), gradients(problem, kernel, use)
    assert expected.keys() == actual.keys()
    for name, grad in expected.items():
        other = actual[name]
        if grad is None or not grad.any():
            assert other is None or not other.any(), f"{name} has a gradient from nowhere"
        else:
            assert other is not None, f"{name} has no gradient"
            assert_relatively_close(other.double(), grad, name, bound)


@pytest.mark.parametrize(
    ("sizes", "num_layers", "attention", "extras"),
    [
        (SMALL, 1, True, False),
        (SMALL, 2, False, True),
        (SMALL, 3, True, True),
        (MANY_ROWS, 1, True, True),
        (SIZES[1], 2, True, False),
    ],
    ids=str,
)
def test_it_is_the_reference(sizes, num_layers, attention, extras, refusals) -> None:
    """The extras are dropout between layers and on attention weights, and held rows."""
    assert_same(Problem(sizes, num_layers, attention, extras, extras, extras, torch.float32))
    assert refusals == []


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [*SIZES, MANY_ROWS], ids=str)
@pytest.mark.parametrize("attention", [True, False], ids=["attention", "plain"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
@pytest.mark.parametrize("extras", [True, False], ids=["dropout-hold", "bare"])
def test_it_is_the_reference_in_all_ways(sizes, num_layers, attention, extras, refusals) -> None:
    assert_same(Problem(sizes, num_layers, attention, extras, extras, extras, torch.float32))
    assert refusals == []


@pytest.mark.parametrize("use", ["states", "weights"])
def test_gradients_through_one_result_alone(use) -> None:
    assert_same(Problem(SMALL, num_layers=1, dtype=torch.float32), use)


def test_without_gradients_the_values_are_the_same() -> None:
    problem = Problem(SMALL, 2, True, True, True, dtype=torch.float32)
    loud = problem.run("triton")
    with torch.no_grad():
        quiet = problem.run("triton")
    assert not quiet.states.requires_grad
    assert torch.equal(quiet.states, loud.states)
    assert torch.equal(quiet.weights, loud.weights)


def test_held_states_do_not_move() -> None:
    problem = Problem(SMALL, 2, hold=True, dtype=torch.float32)
    states = problem.run("triton").states  # (T, L, B, H)
    before = torch.cat([problem.leaves["state"].transpose(0, 1)[None], states[:-1]])
    held = (problem.hold.t() > 0)[:, None, :, None].expand(states.shape)
    assert held.any()
    assert torch.equal(states[held], before[held])


@pytest.mark.parametrize("garbage", [1e10])
def test_garbage_in_padding_is_not_seen(garbage) -> None:
    problem = Problem(Sizes(4, 5, 2, 2, 5, 3, 7), 1, dtype=torch.float32)
    hidden = ~problem.visible.unsqueeze(-1)
    assert hidden.any()
    clean = problem.run("triton")
    dirty = problem.leaves["annotations"].detach().masked_fill(hidden, garbage).requires_grad_()
    seen = problem.run("triton", annotations=dirty)
    assert_relatively_close(seen.states, clean.states, "states", 1e-6)
    assert (seen.weights.transpose(0, 1).masked_select(hidden.transpose(1, 2)) == 0).all()
    (grad,) = torch.autograd.grad(seen.states.sum() + seen.weights.square().sum(), dirty)
    assert (grad.masked_select(hidden) == 0).all()


def test_half_precision_products() -> None:
    problem = Problem(SMALL, 1, dtype=torch.float32)
    exact = problem.run("triton")
    problem.leaves = {n: x.detach().half().requires_grad_() for n, x in problem.leaves.items()}
    half = problem.run("triton")
    assert half.states.dtype == torch.float32
    assert_relatively_close(half.states, exact.states, "states", 0.02)
    grads = gradients(problem, half)
    assert {grad.dtype for grad in grads.values()} == {torch.float16}
    plain = gradients(problem, problem.run("fast"))
    for name, grad in grads.items():
        assert_relatively_close(grad.float(), plain[name].float(), name, 0.03)


def test_autocast_narrows_the_products_alone() -> None:
    problem = Problem(SMALL, 1, dtype=torch.float32)
    exact = problem.run("triton")
    with torch.autocast("cpu", dtype=torch.float16):
        decoded = problem.run("triton")
    assert decoded.states.dtype == torch.float32
    assert 1e-6 < (decoded.states - exact.states).abs().max() < 0.1
    grads = gradients(problem, decoded)
    assert {grad.dtype for grad in grads.values()} == {torch.float32}


# The door


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"dtype": torch.float64}, "float64"),
        ({"dtype": torch.bfloat16}, "does not multiply bfloat16"),
        ({"num_layers": 5, "dtype": torch.float32}, "4 layers"),
        ({"sizes": Sizes(1, 1, 1, 1, 513, 1, 1), "dtype": torch.float32}, "widths up to 512"),
    ],
    ids=["float64", "bfloat16", "layers", "width"],
)
def test_what_it_cannot_take_goes_the_plain_way(changes, reason, refusals) -> None:
    problem = Problem(**changes)
    with torch.no_grad():
        states = problem.run("triton").states
        assert torch.equal(states, problem.run("fast").states)
    assert len(refusals) == 1
    assert reason in refusals[0]


def test_a_model_trains_by_it(tiny_model, refusals) -> None:
    model = tiny_model(dropout=0.3, attention_dropout=0.2).float().train()
    losses, grads, inputs = [], [], batch()
    inputs["labels"] = inputs["labels"][:, :4]
    for implementation in ("reference", "triton"):
        model.set_implementation(implementation)
        torch.manual_seed(1)
        model.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        losses.append(loss.detach())
        grads.append({name: p.grad.clone() for name, p in model.named_parameters()})
    assert_relatively_close(losses[1], losses[0], "loss", 1e-5)
    for name, grad in grads[0].items():
        assert_relatively_close(grads[1][name], grad, name, 1e-4)
    assert refusals == []


def test_the_environment_chooses_where_code_does_not(monkeypatch, tiny_model) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(modeling_bahdanau.logger, "warning", warnings.append)
    model = tiny_model()
    for name, expected in ((None, "fast"), ("", "fast"), ("graph", "graph"), ("triton", "triton")):
        if name is None:
            monkeypatch.delenv("BAHDANAU_IMPLEMENTATION", raising=False)
        else:
            monkeypatch.setenv("BAHDANAU_IMPLEMENTATION", name)
        assert default_implementation() == expected
        assert model.chosen_implementation().name == expected
    assert warnings == []
    model.set_implementation("fast")
    assert model.chosen_implementation().name == "fast"
    model.set_implementation(None)
    assert model.chosen_implementation().name == "triton"
    monkeypatch.setenv("BAHDANAU_IMPLEMENTATION", "grpah")
    assert default_implementation() == model.chosen_implementation().name == "fast"
    assert len(warnings) == 1
    assert "'grpah', none of reference, fast, graph, triton" in warnings[0]
    with pytest.raises(ValueError, match=r"must be one of .* not 'quick'"):
        model.set_implementation("quick")


def test_a_model_runs_where_triton_is_not_there(tiny_model, monkeypatch, refusals) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, "bahdanau_hf.gpu.triton_kernels", raising=False)
    model = tiny_model().float()
    expected = model(**batch()).loss
    model.set_implementation("triton")
    assert torch.equal(model(**batch()).loss, expected)
    assert len(refusals) == 1
    assert "needs the package triton" in refusals[0]


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "kind"), [(80, "fp16"), (90, "bf16"), (80, "fp32")])
def test_the_compiler_takes_it(architecture, kind) -> None:
    """Both kernels, with all they can do, down to a GPU's machine code; none is needed for that."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.helpers.compile_kernels", str(architecture), kind], cwd=ROOT,
        capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    sizes = [int(line) for line in done.stdout.split()]
    assert len(sizes) == 2
    assert max(sizes) <= triton_recurrence.SHARED_BYTES
