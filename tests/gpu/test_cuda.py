"""On a CUDA device: every way of computing against the equations in float64, and against the CPU.

`python -m pytest -m gpu -n 13 tests/gpu`: three minutes at most on one card. `test_cuda_graphs.py`
runs what it can of the searches without a device, by a recorder.
"""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration
from bahdanau_hf.modeling.modeling_bahdanau import FAST_WAYS
from tests.helpers.batches import SOURCES, batch, pad
from tests.helpers.decisive_model import decisive, wide_model
from tests.helpers.recurrences import SIZES, Problem, Sizes, assert_relatively_close, gradients
from tests.helpers.tiny_model import make_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

WAYS = ("fast", "cuda")
HALF = (torch.float16, torch.bfloat16)
BOUNDS = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
LARGE = Sizes(37, 23, 19, 24, 136, 72, 48)  # several programs, tiles and rows of filling
# Layers, whether there is attention, whether there are dropout and places that hold the state, and
# two transitions: every size, and every pair of the three before the last.
PROBLEMS = [
    (SIZES[0], 1, True, False, False),
    (SIZES[0], 2, False, True, False),
    (SIZES[1], 1, True, True, False),
    (SIZES[2], 1, True, False, False),
    (SIZES[3], 3, True, True, False),
    (SIZES[3], 1, False, False, False),
    (LARGE, 1, True, False, False),
    (LARGE, 1, True, True, False),
    (LARGE, 2, True, False, False),
    (LARGE, 1, False, True, False),
    (SIZES[0], 1, True, True, True),
    (LARGE, 1, True, False, True),
]
TIE = 1e-3  # of log-probability: what is nearer may change places by rounding


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


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize(
    ("sizes", "num_layers", "attention", "extras", "conditional"), PROBLEMS, ids=str
)
def test_values_and_gradients(
    sizes, num_layers, attention, extras, conditional, dtype, way
) -> None:
    """Relative to the same rounded numbers, computed on in float64."""
    extra = {"layer_dropout": extras, "attention_dropout": extras, "hold": extras}
    problem = scaled(Problem(sizes, num_layers, attention, **extra, conditional=conditional))
    narrow = moved(problem, "cuda", dtype)
    exact = moved(narrow, "cpu", torch.float64)
    expected, actual = exact.run("reference"), narrow.run(way)
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


def check_gradients(model: torch.nn.Module, exact: torch.nn.Module, bound: float) -> None:
    for (name, mine), theirs in zip(model.named_parameters(), exact.parameters(), strict=True):
        error = (mine.grad.double().cpu() - theirs.grad).norm() / theirs.grad.norm()
        assert error < bound, f"{name}: relative error {error:.1e}"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "shape", [{}, {"readout": "deep"}, {"readout": "deep", "conditional_gru": True}], ids=str
)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_a_models_loss_and_gradients(dtype, shape, way) -> None:
    """In float32, and under autocast; of the whole model, at sizes that fill no tile."""
    config = BahdanauConfig(
        vocab_size=13, encoder_vocab_size=17, embedding_size=40, hidden_size=72, **shape
    )
    exact = BahdanauForConditionalGeneration(config).double()
    if (
        exact.model.decoder.readout is not None
    ):  # which of two pieces is larger, and has the gradient, rounding may turn
        with torch.no_grad():
            exact.model.decoder.readout.projection.bias[::2] += 9
    model = copy.deepcopy(exact).float().cuda()
    model.set_implementation(way)
    expected = exact(**batch()).loss
    expected.backward()
    given = {name: x.cuda() for name, x in batch().items()}
    with torch.autocast("cuda", dtype, enabled=dtype in HALF):
        loss = model(**given, skip_logits=True).loss
    loss.backward()
    is_narrow = dtype in HALF
    assert loss.item() == pytest.approx(expected.item(), rel=0.02 if is_narrow else 1e-5)
    check_gradients(model, exact, 0.1 if is_narrow else 1e-4)


@pytest.mark.parametrize(
    ("side", "training"), [("right", True), ("left", False), ("both", True)], ids=str
)
def test_the_encoder_in_float64(variant, side, training) -> None:
    """Padding on any side, both directions; and gradients where the model is not in training."""
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
    check_gradients(device, model, 1e-8)


@pytest.mark.parametrize("way", WAYS)
def test_the_encoder_in_float32_rounds_as_float32(way) -> None:
    """TF32, which cuDNN takes unless told otherwise, is off by some 1e-3 at this width."""
    model = wide_model(hidden_size=256, embedding_size=200)
    exact, device = copy.deepcopy(model).double(), copy.deepcopy(model).cuda()
    device.set_implementation(way)
    ids = torch.randint(4, 701, (7, 30))
    expected = exact.model.encoder(ids).last_hidden_state
    actual = device.model.encoder(ids.cuda()).last_hidden_state.double().cpu()
    assert_relatively_close(actual, expected, "annotations", 1e-4)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_gru_layers_in_half_weights_and_autocast(dtype, way) -> None:
    """Two directions, each against PyTorch's layer in float64."""
    run_grus, layers = FAST_WAYS[way].run_grus, [torch.nn.GRU(20, 24).cuda() for _ in range(2)]
    steps = [torch.randn(9, 5, 20, device="cuda") for _ in layers]
    exact = [
        copy.deepcopy(layer).double().cpu()(x.double().cpu())[0]
        for x, layer in zip(steps, layers, strict=True)
    ]
    kinds = [run_grus([x.to(dtype) for x in steps], [copy.deepcopy(x).to(dtype) for x in layers])]
    assert {x.dtype for x in kinds[0]} == {dtype}
    if dtype in HALF:
        with torch.autocast("cuda", dtype):
            kinds.append(run_grus(steps, layers))
    for found in kinds:
        for one, other in zip(found, exact, strict=True):
            assert_relatively_close(one.double().cpu(), other, "states", BOUNDS[dtype])


# --- training steps ------------------------------------------------------------------------------


def trained(way: str, as_graph: bool, dtype: torch.dtype = torch.float32) -> list[list[float]]:
    """Loss and norm of ten steps over batches of three shapes, without dropout."""
    torch.manual_seed(0)
    shape = {"readout": "deep", "tie_word_embeddings": True, "conditional_gru": True}  # of `base`
    config = BahdanauConfig(vocab_size=97, embedding_size=24, hidden_size=40, **shape)
    model = BahdanauForConditionalGeneration(config).cuda().train()
    model.set_implementation(way)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, fused=True)

    def step(given: dict[str, torch.Tensor]) -> tuple[torch.Tensor, ...]:
        with torch.autocast("cuda", dtype, enabled=dtype in HALF):
            loss = model(**given, skip_logits=True, num_items_in_batch=given["labels"].numel()).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach(), norm

    take = step
    if as_graph:
        from bahdanau_hf.gpu.step_graphs import StepGraphs

        take = StepGraphs(step, optimizer)
    generator = torch.Generator().manual_seed(1)
    batches = []
    for B, S, T in ((6, 5, 7), (4, 9, 3), (6, 5, 8)):
        ids, labels = (torch.randint(4, 97, (B, n), generator=generator) for n in (S, T))
        mask = torch.ones_like(ids)
        mask[1:, S - 1] = 0
        whole = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        batches.append({name: x.cuda() for name, x in whole.items()})
    return [[x.item() for x in take(batches[i % 3])] for i in range(10)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_steps_as_graphs_learn_what_steps_learn(way, dtype) -> None:
    eager, graphs = trained(way, False, dtype), trained(way, True, dtype)
    assert eager[-1][0] < 0.9 * eager[0][0]
    for one, other in zip(eager, graphs, strict=True):
        assert other == pytest.approx(one, rel=1e-4 if dtype == torch.float32 else 0.02)


@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_a_step_does_not_wait_for_the_device(way, dtype) -> None:
    dropout = {"embedding_dropout": 0.3, "readout_dropout": 0.3}
    model = wide_model(readout="deep", conditional_gru=True, **dropout).cuda().train()
    model.set_implementation(way)
    ids, mask = (x.cuda() for x in pad(SOURCES, "right"))
    given = {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        with torch.autocast("cuda", dtype, enabled=dtype in HALF):
            loss = model(**given, skip_logits=True, num_items_in_batch=9).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


# --- searches ------------------------------------------------------------------------------------


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
        for way in ("fast", "cuda", "cuda"):
            device.set_implementation(way)
            assert generated(device, **call) == expected


def log_prob(model: BahdanauForConditionalGeneration, source: list, tokens: list) -> float:
    """Of an output, start token first, as far as it goes."""
    ids, read = torch.tensor([source]), torch.tensor([tokens])
    with torch.no_grad():
        scores = model(input_ids=ids, decoder_input_ids=read[:, :-1]).logits.log_softmax(-1)
    return float(scores[0].gather(1, read[0, 1:, None]).sum())


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("way", WAYS)
def test_tokens_in_float32_are_the_cpus_for_all_but_ties(way, num_beams) -> None:
    """Where they differ, both outputs are as likely up to there, by the model in float64."""
    model = wide_model(conditional_gru=True)
    exact, device = copy.deepcopy(model).double(), copy.deepcopy(model).cuda()
    device.set_implementation(way)
    ids = torch.randint(4, 701, (64, 9))
    call = {"input_ids": ids, "num_beams": num_beams, "max_new_tokens": 12}
    for source, one, other in zip(
        ids.tolist(), generated(model, **call), generated(device, **call), strict=True
    ):
        if one != other:
            length = min(len(one), len(other))
            if num_beams == 1:  # up to where they part; with beams they may have parted earlier
                length = 1 + next(i for i in range(length) if one[i] != other[i])
            both = [log_prob(exact, source, tokens[:length]) for tokens in (one, other)]
            assert both[0] == pytest.approx(both[1], abs=TIE)


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("dtype", BOUNDS, ids=str)
def test_graphs_give_the_ordinary_tokens_in_every_format(dtype, num_beams) -> None:
    torch.manual_seed(0)
    config = BahdanauConfig(
        vocab_size=301, embedding_size=64, hidden_size=128, initializer_range=2.0
    )
    model = decisive(BahdanauForConditionalGeneration(config).eval()).to("cuda", dtype)
    ids = torch.randint(4, 301, (31, 7))
    outputs = []
    for way in WAYS:
        model.set_implementation(way)
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
        for way in WAYS:
            model.set_implementation(way)
            outputs.append(generated(model, **call))
        assert outputs[0] == outputs[1]
        seen.append(outputs[0])
    assert seen[0] != seen[1] != seen[2]
