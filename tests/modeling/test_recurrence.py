"""The recurrence: against scalar arithmetic, PyTorch's own layers, and itself done two ways."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from bahdanau_hf.modeling.modeling_bahdanau import (
    CACHE,
    HOLD,
    BahdanauAttention,
    BahdanauGRUCell,
    DropoutMasks,
)
from tests.helpers import oracles
from tests.helpers.pretences import pretending
from tests.helpers.recurrences import SIZES, Problem, Sizes, assert_relatively_close, gradients
from tests.helpers.tiny_model import make_config, make_model


def assert_same_both_ways(problem: Problem, use: str = "both", bound: float = 1e-11) -> None:
    reference, fast = problem.run("reference"), problem.run("fast")
    assert_relatively_close(fast.states, reference.states, "states", bound)
    assert (fast.weights is None) == (not problem.attention)
    if reference.weights is not None and fast.weights is not None:
        assert_relatively_close(fast.weights, reference.weights, "weights", bound)
    expected, actual = gradients(problem, reference, use), gradients(problem, fast, use)
    for name, grad in expected.items():
        other = actual[name]
        if grad is None or not grad.any():
            assert other is None or not other.any(), f"{name} has a gradient from nowhere"
        else:
            assert other is not None, f"{name} has no gradient"
            assert_relatively_close(other, grad, name, bound)


# The equations


def test_the_cell_is_that_of_pytorch() -> None:
    cell, theirs = BahdanauGRUCell(5, 7).double(), nn.GRUCell(5, 7).double()
    theirs.load_state_dict(cell.state_dict())
    x, s = torch.randn(3, 5).double(), torch.randn(3, 7).double()
    assert_close(cell(x, s), theirs(x, s), rtol=1e-12, atol=0)
    hold = torch.tensor([[0.0], [HOLD], [0.0]]).double()
    held = cell(x, s, hold)
    assert torch.equal(held[1], s[1])
    assert torch.equal(held[::2], cell(x, s)[::2])


def test_attention_is_the_papers() -> None:
    B, S, A, C, H = 2, 5, 3, 7, 4
    attention = BahdanauAttention(make_config(hidden_size=H, attention_hidden_size=A)).double()
    state, keys = torch.randn(B, H).double(), torch.randn(B, S, A).double()
    annotations, factors = torch.randn(B, S, C).double(), torch.rand(B, S).double()
    visible = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 1, 0, 0]]).bool()
    bias = torch.zeros(B, S).double().masked_fill(~visible, torch.finfo(torch.float64).min)
    context, alpha = attention(state, keys, annotations, bias)
    dropped, same_alpha = attention(state, keys, annotations, bias, factors)
    W, score = attention.query.weight.tolist(), attention.score.weight[0].tolist()
    for b in range(B):
        query = oracles.apply(W, state[b].tolist())
        features = [map(math.tanh, oracles.add(query, keys[b, j].tolist())) for j in range(S)]
        energies = [oracles.dot(score, list(row)) for row in features]
        expected = oracles.softmax(
            [e if seen else -math.inf for e, seen in zip(energies, visible[b], strict=True)]
        )
        assert_close(alpha[b].tolist(), expected, rtol=1e-12, atol=1e-15)
        columns = annotations[b].t().tolist()
        summary = [oracles.dot(expected, column) for column in columns]
        assert_close(context[b].tolist(), summary, rtol=1e-12, atol=1e-15)
        used = oracles.multiply(expected, factors[b].tolist())
        summary = [oracles.dot(used, column) for column in columns]
        assert_close(dropped[b].tolist(), summary, rtol=1e-12, atol=1e-15)
    assert (alpha[~visible] == 0).all(), "padding must get exactly nothing"
    assert_close(alpha.sum(-1), torch.ones(B).double())
    assert torch.equal(same_alpha, alpha), "the weights are those before dropout"


@pytest.mark.parametrize("size", [1.0, 1e3, 1e6])
def test_attention_stands_large_scores(size) -> None:
    attention = BahdanauAttention(make_config(hidden_size=3, attention_hidden_size=3))
    with torch.no_grad():
        attention.query.weight.copy_(torch.eye(3))
        attention.score.weight.normal_().mul_(size)
    query, keys = torch.randn(2, 3) * size, torch.randn(2, 4, 3) * size
    bias = torch.zeros(2, 4)
    bias[0, 2:] = torch.finfo(torch.float32).min
    _, alpha = attention(query, keys, torch.randn(2, 4, 5), bias)
    assert_close(alpha.sum(-1), torch.ones(2))
    assert (alpha[0, 2:] == 0).all()


@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_conditional_gru_by_its_equations(implementation) -> None:
    """Sennrich et al. 2017, "Nematus", section 2; at once, and word by word as a search does."""
    model = make_model(readout="deep", conditional_gru=True)
    model.set_implementation(implementation)
    ids, words = torch.randint(4, 17, (2, 5)), torch.randint(4, 13, (2, 6))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    decoder, read = model.model.decoder, model.model.encoder(ids, mask)
    h, s = read.last_hidden_state, decoder.start_state(read.final_state)[:, 0]

    def gru(cell: BahdanauGRUCell, x: Tensor, s: Tensor) -> Tensor:
        W, U = (w.chunk(3) for w in (cell.weight_ih, cell.weight_hh))
        b, c = (w.chunk(3) for w in (cell.bias_ih, cell.bias_hh))
        r, z = (torch.sigmoid(x @ W[i].T + b[i] + s @ U[i].T + c[i]) for i in (0, 1))
        return (1 - z) * torch.tanh(x @ W[2].T + b[2] + r * (s @ U[2].T + c[2])) + z * s

    attention, expected = decoder.attention, []
    for word in decoder.embed_tokens(words).unbind(1):
        between = gru(decoder.transition, word, s)
        seen = torch.tanh(attention.query(between)[:, None] + attention.key(h))
        e = attention.score(seen)[..., 0].masked_fill(mask == 0, -math.inf)
        c = (e.softmax(1)[..., None] * h).sum(1)
        s = gru(decoder.layers[0], c, between)
        expected.append(model.lm_head(decoder.readout(s, c, word)))
    assert_close(model(ids, mask, decoder_input_ids=words).logits, torch.stack(expected, dim=1))
    steps, cache = [], None
    for word in words.split(1, dim=1):
        found = model(ids, mask, decoder_input_ids=word, use_cache=True, **{CACHE: cache})
        cache = found[CACHE]
        steps.append(found.logits)
    assert_close(torch.cat(steps, dim=1), torch.stack(expected, dim=1))


# Reference and fast path


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("attention", [True, False], ids=["attention", "plain"])
@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_fast_is_reference(sizes, attention, num_layers) -> None:
    assert_same_both_ways(Problem(sizes, num_layers, attention))


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("attention", [True, False], ids=["attention", "plain"])
@pytest.mark.parametrize("hold", [True, False], ids=["hold", "free"])
@pytest.mark.parametrize("attention_dropout", [True, False], ids=["attention-dropout", "sure"])
def test_fast_is_reference_with_dropout_and_hold(
    num_layers, attention, hold, attention_dropout
) -> None:
    problem = Problem(SIZES[0], num_layers, attention, True, attention_dropout, hold)
    assert_same_both_ways(problem)


@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("hold", [True, False], ids=["hold", "free"])
@pytest.mark.parametrize("dropout", [True, False], ids=["dropout", "sure"])
def test_fast_is_reference_with_two_transitions(sizes, hold, dropout) -> None:
    assert_same_both_ways(Problem(sizes, 1, True, False, dropout, hold, conditional=True))


KINDS = pytest.mark.parametrize(
    "kind", [{"num_layers": 2}, {"num_layers": 1, "conditional": True}], ids=["layers", "cond"]
)


@KINDS
@pytest.mark.parametrize("use", ["states", "weights"])
def test_gradients_through_one_result_alone(use, kind) -> None:
    assert_same_both_ways(Problem(**kind), use=use)


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        *(
            (kind, wanted)
            for kind in ({"num_layers": 2}, {"num_layers": 1, "conditional": True})
            for wanted in (
                *(["embeddings"], ["state"], ["annotations"], ["score"], ["query", "key"]),
                *(["0.weight_ih", "0.bias_hh"], ["0.bias_ih"]),
            )
        ),
        ({"num_layers": 2}, ["1.weight_hh"]),
        ({"num_layers": 1, "conditional": True}, ["between.weight_hh"]),
        ({"num_layers": 1, "conditional": True}, ["between.weight_ih", "between.bias_hh"]),
    ],
    ids=str,
)
def test_gradients_of_few_leaves(kind, wanted) -> None:
    """As where the others are frozen."""
    problem = Problem(**kind, attention_dropout=True)
    for name, leaf in problem.leaves.items():
        leaf.requires_grad_(name in wanted)
    assert_same_both_ways(problem)


@pytest.mark.parametrize("implementation", ["reference", "fast"])
@pytest.mark.parametrize(
    "kind",
    [
        {"num_layers": 2},
        {"num_layers": 2, "attention": False},
        {"num_layers": 1, "conditional": True},
    ],
    ids=["attention", "plain", "cond"],
)
@pytest.mark.parametrize("dropout", [True, False], ids=["dropout", "sure"])
def test_gradcheck(implementation, kind, dropout) -> None:
    """Numerical differences agree, in every leaf and with held states."""
    dropouts = {"layer_dropout": dropout, "attention_dropout": dropout}
    problem = Problem(Sizes(2, 3, 2, 1, 2, 2, 3), **kind, **dropouts, hold=True)
    names = list(problem.leaves)

    def run(*leaves: Tensor) -> tuple[Tensor, ...]:
        decoded = problem.run(implementation, **dict(zip(names, leaves, strict=True)))
        return tuple(result for result in decoded if result is not None)

    assert torch.autograd.gradcheck(run, tuple(problem.leaves.values()))


@KINDS
@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_without_gradients_the_result_is_the_same(implementation, kind) -> None:
    problem = Problem(**kind, layer_dropout=True, attention_dropout=True, hold=True)
    with torch.no_grad():
        quiet = problem.run(implementation)
    loud = problem.run(implementation)
    assert not quiet.states.requires_grad
    assert_close(quiet.states, loud.states, rtol=1e-13, atol=0)
    assert_close(quiet.weights, loud.weights, rtol=1e-13, atol=0)


@KINDS
@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_steps_in_two_parts(implementation, kind) -> None:
    problem = Problem(**kind, layer_dropout=True, attention_dropout=True, hold=True)
    whole = problem.run(implementation)
    first = problem.run(implementation, steps=slice(0, 3))
    second = problem.run(
        implementation, steps=slice(3, None), state=first.states[-1].transpose(0, 1)
    )
    assert_close(torch.cat([first.states, second.states]), whole.states, rtol=1e-12, atol=0)
    assert_close(torch.cat([first.weights, second.weights]), whole.weights, rtol=1e-12, atol=0)


@KINDS
@pytest.mark.parametrize("implementation", ["reference", "fast"])
def test_held_states_do_not_move(implementation, kind) -> None:
    problem = Problem(**kind, hold=True)
    states = problem.run(implementation).states  # (T, L, B, H)
    before = torch.cat([problem.leaves["state"].transpose(0, 1)[None], states[:-1]])
    held = problem.hold.t() > 0
    assert held.any()
    assert (~held).any()
    moved = (states != before).any(dim=-1).transpose(1, 2)  # (T, B, L)
    assert not moved[held].any(), "a held state must stay, to the last bit"
    assert moved[~held].all()


@KINDS
@pytest.mark.parametrize("implementation", ["reference", "fast"])
@pytest.mark.parametrize("garbage", [7.0, 1e10])
def test_garbage_in_padding_is_not_seen(implementation, garbage, kind) -> None:
    problem = Problem(Sizes(4, 6, 3, 2, 5, 3, 7), **kind)
    assert not problem.visible.all()
    clean = problem.run(implementation)
    hidden = ~problem.visible.unsqueeze(-1)
    dirty = problem.leaves["annotations"].detach().masked_fill(hidden, garbage).requires_grad_()
    seen = problem.run(implementation, annotations=dirty)
    assert_close(seen.states, clean.states, rtol=1e-12, atol=0)
    assert (seen.weights.transpose(0, 1).masked_select(hidden.transpose(1, 2)) == 0).all()
    (grad,) = torch.autograd.grad(seen.states.sum() + seen.weights.square().sum(), dirty)
    assert (grad.masked_select(hidden) == 0).all()


def test_dropped_layers_have_no_influence() -> None:
    """With every factor 0 the upper layer sees nothing of the lower one."""
    problem = Problem(num_layers=2)
    zeros = torch.zeros(4, 1, 3, 7).double()
    problem.masks = DropoutMasks(layers=zeros)
    for implementation in ("reference", "fast"):
        grads = gradients(problem, problem.run(implementation))
        assert not grads["1.weight_ih"].any()
    assert_same_both_ways(problem)


# Number formats


@KINDS
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 0.2)])
def test_fewer_digits_give_nearly_the_same(dtype, bound, kind) -> None:
    problem = Problem(Sizes(3, 5, 4, 2, 7, 6, 9), **kind)
    exact = problem.run("reference")
    problem.bias = problem.bias.float().clamp(min=torch.finfo(torch.float32).min)
    fewer = {name: leaf.detach().to(dtype) for name, leaf in problem.leaves.items()}
    for implementation in ("reference", "fast"):
        decoded = problem.run(implementation, **fewer)
        assert torch.isfinite(decoded.states).all()
        assert_relatively_close(decoded.states.double(), exact.states, implementation, bound)


@KINDS
def test_autocast_keeps_the_state_in_full(kind) -> None:
    problem = Problem(**kind, dtype=torch.float32)
    exact = problem.run("fast")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        decoded = problem.run("fast")
    assert decoded.states.dtype == torch.float32
    assert_relatively_close(decoded.states, exact.states, "states", 0.1)
    grads = gradients(problem, decoded)
    assert all(grad is not None and torch.isfinite(grad).all() for grad in grads.values())
    assert {grad.dtype for grad in grads.values()} == {torch.float32}


@KINDS
@pytest.mark.parametrize("in_hardware", [False, True])
@pytest.mark.parametrize("with_masks", [False, True])
def test_backward_inside_autocast_is_the_one_outside(with_masks, in_hardware, kind) -> None:
    masks = {"layer_dropout": with_masks, "attention_dropout": with_masks}
    problem = Problem(**kind, **masks, dtype=torch.float32)
    found = []
    for inside in (False, True):
        with pretending(bfloat16=in_hardware), torch.autocast("cpu", dtype=torch.bfloat16):
            decoded = problem.run("fast")
            if inside:
                found.append(gradients(problem, decoded))
        if not inside:
            found.append(gradients(problem, decoded))
    for name, grad in found[0].items():
        assert_close(found[1][name], grad, rtol=0, atol=0, msg=name)
