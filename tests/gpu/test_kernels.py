"""The Triton kernels against the plain loop, in Triton's interpreter, without a device.

`make test-triton` installs it. On a device they are compared in `test_cuda.py`.
"""

import os
from functools import partial

import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("for Triton's interpreter: make test-triton", allow_module_level=True)

from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration
from bahdanau_hf.gpu import cuda_graphs, loss, recurrence
from bahdanau_hf.gpu.compile_ahead import call_kernels
from bahdanau_hf.modeling import recurrence_bahdanau as plain
from bahdanau_hf.modeling.generation_bahdanau import Beams, Search
from bahdanau_hf.modeling.matmul_bahdanau import linear_cross_entropy as plain_loss
from bahdanau_hf.modeling.modeling_bahdanau import FAST_WAYS, FastWay
from bahdanau_hf.modeling.recurrence_bahdanau import Room, Stepper
from tests.helpers.recurrences import SIZES, Problem, Sizes, assert_relatively_close, gradients
from tests.helpers.tiny_model import make_model

# More than a tile of source tokens, and of numbers of a state and of a key.
LARGE = Sizes(2, 35, 2, 3, 260, 258, 4)


@pytest.fixture(autouse=True)
def kernels(monkeypatch) -> None:
    monkeypatch.setitem(FAST_WAYS, "cuda", FastWay(recur=recurrence.recur))


@pytest.mark.parametrize(
    ("sizes", "num_layers", "attention", "extras", "conditional"),
    [
        (SIZES[0], 1, True, True, False),
        (SIZES[0], 3, True, True, False),
        (SIZES[0], 2, False, True, False),
        (SIZES[1], 1, True, False, False),
        (SIZES[2], 2, True, False, False),
        (SIZES[3], 1, False, False, False),
        (LARGE, 1, True, True, False),
        (SIZES[0], 1, True, True, True),
        (SIZES[2], 1, True, False, True),
    ],
    ids=str,
)
def test_values_and_gradients(sizes, num_layers, attention, extras, conditional) -> None:
    problem = Problem(sizes, num_layers, attention, extras, extras, extras, conditional=conditional)
    expected, actual = problem.run("fast"), problem.run("cuda")
    assert_relatively_close(actual.states, expected.states, "states", 1e-11)
    if attention:
        assert_relatively_close(actual.weights, expected.weights, "weights", 1e-11)
    for use in ("both", "states"):
        wanted, found = (gradients(problem, way, use) for way in (expected, actual))
        for name, grad in wanted.items():
            if grad is None:
                assert found[name] is None or not found[name].any(), name
            else:
                assert_close(found[name], grad, rtol=1e-8, atol=1e-10, msg=name)
        expected, actual = problem.run("fast"), problem.run("cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [{"num_layers": 2}, {"num_layers": 1, "conditional": True}])
def test_narrow_products_are_as_near_as_the_plain_loops(kind, dtype) -> None:
    """The errors of both against float64, of one rounding each time a state is read."""
    exact = Problem(SIZES[0], **kind)
    narrow = Problem(SIZES[0], **kind, dtype=torch.float32)
    narrow.leaves = {n: x.detach().float().requires_grad_() for n, x in exact.leaves.items()}
    narrow.visible, narrow.bias = exact.visible, exact.bias.float().clamp(min=-3e38)
    right, errors = exact.run("fast"), []
    for way in ("fast", "cuda"):
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype != torch.float32):
            decoded = narrow.run(way)
        errors.append((decoded.states.double() - right.states).abs().max().item())
    assert errors[1] <= 2 * errors[0] + 1e-6
    assert errors[1] < (1e-4 if dtype == torch.float32 else 0.2)


def test_directions_take_their_steps_together() -> None:
    layers = [nn.GRU(5, 7, dtype=torch.float64) for _ in range(2)]
    steps = [torch.randn(6, 3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    leaves = [*steps, *layers[0].parameters(), *layers[1].parameters()]
    results = []
    for run in (plain.run_grus, recurrence.run_grus):
        outputs = run(steps, layers, False)
        total = sum(((i + 2) * x).square().sum() for i, x in enumerate(outputs))
        results.append((outputs, torch.autograd.grad(total, leaves)))
    assert_close(results[1], results[0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("num_layers", [1, 2])
@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_step_of_a_search(num_layers, num_beams) -> None:
    B, S, H, A = 2, 5, 7, 6
    make = lambda *shape: torch.randn(*shape, dtype=torch.float64)  # noqa: E731
    wide = [*[3 * H] * (num_layers - 1), 3 * H + A]
    products = [partial(F.linear, weight=make(width, H)) for width in wide]
    inputs = [partial(F.linear, weight=make(3 * H, H)) for _ in wide[1:]]
    bias = torch.zeros(B, S, dtype=torch.float64)
    bias[1, 3:] = torch.finfo(torch.float64).min
    seen = (make(B, S, A), make(B, S, 3 * H), bias, make(A))
    x, states = make(B * num_beams, 3 * H), make(num_layers, B * num_beams, H)
    rooms = Room([x.new_empty(len(x), 2 * H)] * num_layers, [x.new_empty(len(x), H)] * num_layers)
    results = []
    for kind in (Stepper, recurrence.KernelStepper):
        stepper = kind(products, inputs, *seen, dtype=torch.float64)
        stepper.widen(num_beams)
        new = states.clone()
        alpha = stepper.step(x, new.unbind(), new.unbind(), rooms)
        results.append((alpha, new))
    assert_close(results[1], results[0])


@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_search_with_two_transitions(num_beams) -> None:
    model = make_model(readout="deep", conditional_gru=True)
    ids, mask = torch.randint(4, 17, (2, 5)), torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    read = model.model.encoder(ids, mask)
    given = (ids.new_ones(2, 1), read.last_hidden_state, read.final_state, mask, 9, None, 0)
    words, results = torch.randint(4, 13, (3, 2 * num_beams)), []
    with torch.no_grad():
        for kind in (Stepper, recurrence.KernelStepper):
            search = Search(model.model.decoder, model.lm_head, *given)
            beams = Beams(search, pack=False, stepper=kind)
            beams.widen(num_beams)
            results.append(torch.stack([beams.logits(tokens) for tokens in words]))
    assert_close(results[1], results[0])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("some", [True, False])
@pytest.mark.parametrize("vocabulary", [3, 37, 4100])
def test_loss_and_its_gradients(vocabulary, label_smoothing, some, monkeypatch) -> None:
    """In two chunks of rows, with labels that do not count and are no words."""
    monkeypatch.setattr(loss, "LOGITS_PER_CHUNK", 4 * vocabulary)
    make = lambda *shape: torch.randn(*shape, dtype=torch.float64, requires_grad=True)  # noqa: E731
    leaves = [make(7, 5), make(vocabulary, 5), make(vocabulary)]
    labels, real = torch.randint(0, vocabulary, (7,)), None
    if some:
        real = torch.tensor([True, False, True, True, False, True, False])
        labels = labels.masked_fill(~real, -100)
    results = []
    for function in (plain_loss, loss.linear_cross_entropy):
        total = function(*leaves, labels, label_smoothing, real)
        results.append((total, torch.autograd.grad(3 * total, leaves)))
    assert_close(results[1], results[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("shape", "guided", "autocast"),
    [
        ({}, True, torch.bfloat16),
        ({"decoder_layers": 2}, False, None),
        ({"conditional_gru": True}, True, torch.bfloat16),
    ],
    ids=str,
)
def test_a_training_finds_its_kernels_compiled_ahead(shape, guided, autocast, monkeypatch) -> None:
    """Each kernel of a step, a validation and a search was called with the same kinds before."""
    monkeypatch.setenv("BAHDANAU_IMPLEMENTATION", "cuda")
    monkeypatch.setattr(cuda_graphs, "can_run_kernels", lambda device: True)
    ways = (recurrence.recur, recurrence.run_grus, loss.linear_cross_entropy)
    search = cuda_graphs.graphed_greedy_search
    monkeypatch.setitem(FAST_WAYS, "cuda", FastWay(*ways, search))
    called: set[tuple] = set()
    for name in ("forward_step", "backward_step", "backward_of_keys"):
        kernel = getattr(recurrence.kernels, name)

        def call(*tensors, kernel=kernel, name=name):
            kinds = [x if x is None or isinstance(x, int) else x.dtype for x in tensors]
            place = {"forward_step": 4, "backward_step": 9, "backward_of_keys": 1}[name]
            keys = tensors[place] if len(tensors) > place else None
            blocks = recurrence.kernels._blocks(keys, 8)
            called.add((name, *kinds, *sorted(blocks.items())))
            return kernel(*tensors)

        monkeypatch.setattr(recurrence.kernels, name, call)
    sizes = {"hidden_size": 8, "embedding_size": 6, "embedding_dropout": 0.5}
    config = BahdanauConfig(vocab_size=40, **shape, **sizes)
    call_kernels(config, torch.device("cpu"), autocast, guided)
    ahead = set(called)
    called.clear()
    model = BahdanauForConditionalGeneration(config)
    ids, labels = torch.randint(4, 40, (3, 11)), torch.randint(4, 40, (3, 3))
    labels[1, 2:] = -100
    mask = torch.ones_like(ids)
    mask[2, 2:] = 0
    given = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    with torch.autocast("cpu", autocast, enabled=autocast is not None):
        outputs = model.train()(**given, skip_logits=True, output_attentions=guided)
        on_weights = outputs.cross_attentions[0].square().sum() if guided else 0
        (outputs.loss + on_weights).backward()
        with torch.no_grad():
            model.eval()(**given, skip_logits=True)
        model.generate(ids, attention_mask=mask, max_new_tokens=3)
    assert called
    assert called <= ahead
