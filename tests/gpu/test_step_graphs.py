"""Steps on tensors that stay, computed as they are and replayed: those of the eager path.

What a CUDA graph does, a recorder imitates here: the operations of one step are done again on the
same memory, with all that Python chose in between left as it was. The end of the file is for a
device: `python -m pytest -m gpu`.
"""

import copy
import logging
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from bahdanau_hf.gpu import step_graphs
from bahdanau_hf.gpu.step_graphs import StepGraphs
from bahdanau_hf.modeling import modeling_bahdanau
from bahdanau_hf.training import loop
from bahdanau_hf.training import step as training
from bahdanau_hf.training.run import Run
from bahdanau_hf.training.step import NonFiniteError, take_step, whole_step
from tests.helpers.looks import Looks
from tests.helpers.recorder import Recorder
from tests.helpers.tiny_run import NO_DROPOUT, logged, prepare


def give_graphs(run: Run) -> StepGraphs:
    """Let a run without a GPU take its steps as if it had one."""
    run.step_graphs = StepGraphs(partial(whole_step, run), run.optimizer.optimizer)
    return run.step_graphs


class Recording:
    """A graph of one step."""

    def __init__(self, body: Callable[[], None], optimizer: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        tensors = [x for p in parameters for x in (p, *optimizer.state[p].values())]
        before, generator = [x.detach().clone() for x in tensors], torch.get_rng_state()
        assert all(p.grad is None for p in parameters)
        assert all(group["capturable"] for group in optimizer.param_groups)
        with Recorder() as recorder:
            body()
        self.replay = recorder.replay
        with torch.no_grad():  # a recording changes nothing
            for x, old in zip(tensors, before, strict=True):
                x.copy_(old)
        torch.set_rng_state(generator)

    def pool(self) -> str:
        return "shared"


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Steps are recorded and replayed as on a device; the pools that they were recorded in."""
    pools: list[str | None] = []

    def record(body: Callable[[], None], pool: str | None, optimizer: Any) -> Recording:
        pools.append(pool)
        return Recording(body, optimizer)

    def init(graphs: StepGraphs, step: Any, optimizer: Any) -> None:
        original(graphs, step, optimizer)
        graphs.records = True
        monkeypatch.setattr(graphs, "_aside", lambda: torch.enable_grad())
        graphs._stream = optimizer  # what the recording here has to know

    original = StepGraphs.__init__
    monkeypatch.setattr(StepGraphs, "__init__", init)
    monkeypatch.setattr(step_graphs, "record", record)
    monkeypatch.setattr(modeling_bahdanau, "look_costs", lambda x: torch.is_grad_enabled())
    return pools


def batches_of(run: Run) -> Iterator[list[dict[str, torch.Tensor]]]:
    while True:
        for batches, ends_epoch in run.batches.steps(run.state, 1):
            run.state.batches_done += 1
            if ends_epoch:
                run.state.epoch, run.state.batches_done = run.state.epoch + 1, 0
            yield batches
            if ends_epoch:
                break


def state_of(run: Run) -> dict[str, torch.Tensor]:
    state = {name: x.detach().clone() for name, x in run.bare_model.named_parameters()}
    for name, parameter in run.bare_model.named_parameters():
        for key, x in run.optimizer.optimizer.state[parameter].items():
            state[f"{name} {key}"] = x.clone()
    return state


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, x in expected.items():
        assert torch.equal(found[name], x), name


RECIPES: list[dict[str, Any]] = [
    {},
    {"guided_attention_weight": 0.5, "label_smoothing_factor": 0.1},
    {"guided_attention_weight": 0.5, "loss_reduction": "tutorial", "max_grad_norm": 0},
    {"optimizer": "adam", "label_smoothing_factor": 0.1, "max_grad_norm": 0.05},
    {"loss_reduction": "tutorial", "weight_decay": 0.1, "max_grad_norm": 0.05},
]


@pytest.mark.parametrize(
    ("way", "changes"),
    [*(("replayed", changes) for changes in RECIPES), ("as it is", RECIPES[1])],
    ids=str,
)
def test_steps_are_those_of_the_eager_path(
    changes: dict[str, Any], way: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With all dropout, of batches of several shapes, at a rate that changes with every step."""
    changes = {
        **changes,
        "learning_rate": 2.0**-7,  # and all that it becomes are exact in float32
        "lr_scheduler_type": "linear",
        "num_warmup_steps": 4,
        "max_train_steps": 36,
        "pad_to_max_length": True,  # two shapes: whole batches and the last of an epoch
    }
    pools = request.getfixturevalue("recorded") if way == "replayed" else []
    eager, graphed = (prepare(tmp_path / name, **changes) for name in ("eager", "graphed"))
    give_graphs(graphed)
    results = []
    for run in (eager, graphed):
        torch.manual_seed(1)
        done, batches = [], batches_of(run)
        for _ in range(12):
            rate = run.scheduler.get_last_lr()
            step = take_step(run, next(batches), lambda: {"a": False, "b": True})
            numbers = [step.loss_sum, step.num_tokens, step.grad_norm, *rate]
            done.append(numbers)
            assert step.reasons_to_stop == {"b"}
        results.append((done, state_of(run), torch.get_rng_state()))
    assert results[1][0] == results[0][0]
    assert_same(results[1][1], results[0][1])
    assert torch.equal(results[1][2], results[0][2])
    assert pools == ([None, "shared"] if way == "replayed" else [])
    optimizer = graphed.optimizer.optimizer
    assert not hasattr(optimizer, "found_inf")
    for group in optimizer.param_groups:
        assert type(group["lr"]) is float
        assert group["capturable"] is False
    assert graphed.scheduler.state_dict() == eager.scheduler.state_dict()
    assert all(p.grad is None for p in graphed.bare_model.parameters())


@pytest.mark.parametrize("changes", RECIPES[:2], ids=str)
def test_a_step_looks_at_nothing_that_it_computes(
    changes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(tmp_path, **changes)
    monkeypatch.setattr(modeling_bahdanau, "look_costs", lambda x: torch.is_grad_enabled())
    batch = next(batches_of(run))[0] | {"divisor": torch.tensor(7.0)}
    graphs = give_graphs(run)
    graphs(batch)
    with Looks() as looks:
        graphs(batch)
    assert looks.seen == []


@pytest.mark.parametrize("way", ["as it is", "replayed"])
@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_not_finite_leaves_the_weights_alone(
    what: str, way: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if way == "replayed":
        request.getfixturevalue("recorded")
    run = prepare(tmp_path, weight_decay=0.5, max_train_steps=40)
    graphs, batches = give_graphs(run), next(batches_of(run))
    bias, bad = run.bare_model.lm_head.bias, torch.ones(())
    if what == "gradient":
        bias.register_hook(lambda gradient: gradient * bad)
    for _ in range(4):
        take_step(run, batches)
    good = bias.detach().clone()
    with torch.no_grad():
        bad.fill_(math.nan)
        if what == "loss":
            bias[0] = math.inf
    before, schedule = state_of(run), copy.deepcopy(run.scheduler.state_dict())
    with pytest.raises(NonFiniteError, match=f"step 1: the {what} is nan"):
        take_step(run, batches)
    assert all(torch.equal(x, before[name]) for name, x in state_of(run).items())
    assert run.scheduler.state_dict() == schedule
    with torch.no_grad():
        bad.fill_(1)
        bias.copy_(good)
    take_step(run, batches)
    assert run.step_graphs is graphs
    assert not torch.equal(bias, good)


LATE = {"logging_steps": 4, "eval_steps": 6, "save_steps": 12, "max_train_steps": 8}


def test_a_run_reads_a_step_while_the_next_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it logs is that of eager steps; nothing is left unread where something follows."""
    runs = [prepare(tmp_path / name, **NO_DROPOUT, **LATE) for name in ("eager", "graphed")]
    give_graphs(runs[1])
    events: list[str] = []

    def noted(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            events.append(name)
            return function(*arguments)

        return call

    monkeypatch.setattr(training.StepDone, "read", noted("read", training.StepDone.read))
    monkeypatch.setattr(loop, "take_step", noted("take", loop.take_step))
    monkeypatch.setattr(loop, "evaluate", noted("evaluate", lambda *_: None))
    monkeypatch.setattr(modeling_bahdanau, "look_costs", lambda x: torch.is_grad_enabled())
    logs = []
    for run in runs:
        events.clear()
        run.train()
        logs.append(logged(run.output_dir))
    assert logs[1] == logs[0]
    late = ["take", *["take", "read"] * 3, "read"]  # four steps, the last of which is logged
    ends = ["take", "take", "read", "read", "evaluate"]
    assert events == [*late, *ends, *ends]


def test_a_late_reader_finds_the_weights_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(tmp_path, **NO_DROPOUT, **LATE)
    give_graphs(run)
    bias = run.bare_model.lm_head.bias
    seen: list[dict[str, torch.Tensor]] = []
    bias.register_hook(lambda gradient: gradient * (math.nan if len(seen) == 3 else 1))

    def take(*arguments: Any) -> Any:
        seen.append(state_of(run))
        return original(*arguments)

    original = loop.take_step
    monkeypatch.setattr(loop, "take_step", take)
    with pytest.raises(NonFiniteError, match="step 3: the gradient is nan"):
        run.train()
    assert len(seen) == 4, "the step after it was taken already"
    assert_same(state_of(run), seen[2])


def test_filling_rows_count_nothing(tmp_path: Path, recorded: list) -> None:
    """A batch may hold rows without a label."""
    runs = [prepare(tmp_path / name, **NO_DROPOUT) for name in ("plain", "filled")]
    give_graphs(runs[1])
    for _ in range(3):
        batch = next(batches_of(runs[0]))[0]
        fillers = {"input_ids": 0, "attention_mask": 0, "labels": -100}
        filled = {
            name: torch.cat([x, torch.full_like(x[:2], fillers[name])]) for name, x in batch.items()
        }
        filled["attention_mask"][-2:, 0] = 1
        one, other = take_step(runs[0], [batch]), take_step(runs[1], [filled])
        assert other.loss_sum == pytest.approx(one.loss_sum, rel=1e-5)
        assert other.grad_norm == pytest.approx(one.grad_norm, rel=1e-4)
        assert other.num_tokens == one.num_tokens


def simple(recorded: list, monkeypatch: pytest.MonkeyPatch | None = None) -> tuple[Any, Any]:
    """Graphs of a step on one weight: it goes down by the rate times the mean of a batch."""
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([weight], lr=1.0, fused=True)

    def step(batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor]:
        (weight * batch["x"].mean()).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return (weight.detach() * 1,)

    return StepGraphs(step, optimizer), weight


def test_a_graph_for_each_shape_and_the_longest_unused_goes(
    recorded: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(step_graphs, "MOST_GRAPHS", 2)
    graphs, _ = simple(recorded)
    counts = []
    for length in (1, 1, 1, 2, 2, 1, 3, 3, 1, 2, 2, 2):  # 3 drives out 2, and 2 then 3
        graphs({"x": torch.ones(length)})
        counts.append(len(recorded))
    #             1: moments are made; then 1, 1 | 2, 2 | 1 | 3, 3 | 1 | 2, 2, 2
    assert counts == [0, 0, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4]
    assert recorded == [None, "shared", "shared", "shared"]
    assert len(graphs._plans) == 2


def test_what_was_moved_is_recorded_anew(recorded: list) -> None:
    graphs, weight = simple(recorded)
    batch = {"x": torch.ones(3)}
    for _ in range(5):
        graphs(batch)
    assert weight.item() == pytest.approx(-5)
    weight.data.fill_(3)  # in place: the graph sees it
    assert float(graphs(batch)[0]) == pytest.approx(2)
    assert recorded == [None]
    weight.data = torch.tensor(7.0)
    assert [round(float(graphs(batch)[0])) for _ in range(3)] == [6, 5, 4]
    assert recorded == [None, None]  # no memory of graphs that are gone is shared
    optimizer = graphs._optimizer
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # other moments
    assert [round(float(graphs(batch)[0])) for _ in range(3)] == [3, 2, 1]
    assert recorded == [None, None, None]


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore"), "record"),
        (RuntimeError("operation not permitted when stream is capturing\nmore"), "record"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "first"),
    ],
)
def test_where_it_cannot_be_steps_are_eager_from_then_on(
    error: RuntimeError,
    place: str,
    recorded: list,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*args: Any) -> Any:
        run.bare_model(**batches[0]).loss.backward()  # a part of the gradient is there already
        raise error

    runs = [prepare(tmp_path / name, **NO_DROPOUT) for name in ("eager", "graphed")]
    caplog.set_level(logging.WARNING, "bahdanau_hf")
    for run in runs:
        batches = next(batches_of(run))
        if run is runs[1]:
            graphs = give_graphs(run)
            if place == "record":
                monkeypatch.setattr(step_graphs, "record", fail)
            else:
                graphs._step = fail
        for _ in range(5):
            take_step(run, batches)
    assert runs[1].step_graphs is None
    assert_same(state_of(runs[1]), state_of(runs[0]))
    told = [record.getMessage() for record in caplog.records if "graphs" in record.getMessage()]
    first_line = str(error).partition("\n")[0]
    assert told == [f"step 1: no CUDA graphs from here on, steps run eagerly: {first_line}"]


def test_another_error_is_raised(recorded: list, tmp_path: Path) -> None:
    run = prepare(tmp_path)
    graphs, batches = give_graphs(run), next(batches_of(run))
    take_step(run, batches)

    def fail(batch: Any) -> Any:
        raise RuntimeError("shapes do not fit")

    graphs._step = fail
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        take_step(run, batches)


def test_it_is_said_why_steps_are_eager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "bahdanau_hf")
    run = prepare(tmp_path)
    obstacle = training._obstacle_to_graphs
    assert training.make_step_graphs(run) is None  # without a device there is nothing to say
    assert obstacle(run) is None
    forward = run.bare_model.forward
    run.bare_model.forward = lambda **options: forward(**options)  # as accelerate does it
    assert obstacle(run) is None

    def accelerator(**changes: Any) -> SimpleNamespace:
        plain = {"num_processes": 1, "gradient_accumulation_steps": 1, "scaler": None}
        return SimpleNamespace(device=torch.device("cuda"), **{**plain, **changes})

    for changes, reason in (
        ({"num_processes": 2}, "several processes"),
        ({"gradient_accumulation_steps": 2}, "gradients of several batches are added up"),
        ({"scaler": torch.amp.GradScaler("cpu")}, "a gradient scaler watches float16"),
    ):
        run.accelerator = accelerator(**changes)
        assert training.make_step_graphs(run) is None
        assert caplog.messages[-1] == f"Steps run eagerly: {reason}"
    run.accelerator = accelerator()
    made = training.make_step_graphs(run)  # the weights lie on the CPU: nothing is recorded
    assert made is not None
    assert not made.records
    assert caplog.messages[-1] == "Steps run as CUDA graphs, one for each shape of batch"
    handle = run.bare_model.lm_head.register_forward_hook(lambda *args: None)
    assert obstacle(run) == "the model is computed by its modules (the model has a hook)"
    handle.remove()
    run.bare_model.set_implementation("reference")
    assert obstacle(run) == "the model is computed by its modules (it was asked for)"
    run.bare_model.set_implementation(None)
    run.model = torch.nn.Sequential(run.bare_model)
    assert obstacle(run) == "the model is in a Sequential"
    run.model = run.bare_model
    assert obstacle(run) is None
    monkeypatch.setenv("BAHDANAU_STEP_GRAPHS", "0")
    assert obstacle(run) == "BAHDANAU_STEP_GRAPHS is 0"


# --- on a device ---------------------------------------------------------------------------------

on_device = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
LONG = {
    "max_train_steps": 40,
    "eval_steps": 100,
    "save_steps": 100,
    "learning_rate": 0.002,
    "pad_to_max_length": True,  # two shapes: whole batches and the last of an epoch
}


@pytest.fixture
def as_in_use() -> Iterator[None]:
    """cuBLAS asks for an environment variable in the tests' deterministic mode."""
    torch.use_deterministic_algorithms(False)
    AcceleratorState._reset_state(reset_partial_state=True)  # another test may not use the device
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    torch.use_deterministic_algorithms(True)


def losses(run: Run, number: int) -> list[float]:
    batches = batches_of(run)
    return [take_step(run, next(batches)).loss_sum for _ in range(number)]


@pytest.mark.gpu
@on_device
@pytest.mark.parametrize("precision", ["no", "bf16"])
@pytest.mark.parametrize("changes", [{}, {"guided_attention_weight": 0.5}], ids=str)
def test_graphs_give_the_eager_losses(
    changes: dict[str, Any],
    precision: str,
    as_in_use: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With all dropout: graphs draw what eager steps draw."""
    found = []
    for wish in ("0", "1"):
        monkeypatch.setenv("BAHDANAU_STEP_GRAPHS", wish)
        run = prepare(tmp_path / wish, **LONG, **changes, precision=precision)
        assert (run.step_graphs is None) == (wish == "0")
        found.append(losses(run, 30))
    assert run.step_graphs is not None, "graphs were given up"
    assert any(plan.graph is not None for plan in run.step_graphs._plans.values())
    assert found[1] == pytest.approx(found[0], rel=1e-5 if precision == "no" else 2e-2)
    assert not hasattr(run.optimizer.optimizer, "found_inf")


@pytest.mark.gpu
@on_device
def test_weights_that_change_between_steps_are_seen(as_in_use: None, tmp_path: Path) -> None:
    run = prepare(tmp_path, **LONG, **NO_DROPOUT)
    batches = next(batches_of(run))
    for _ in range(5):
        before = take_step(run, batches).loss_sum
    with torch.no_grad():
        for parameter in run.bare_model.parameters():
            parameter.zero_()
    uniform = math.log(run.bare_model.config.vocab_size)
    done = take_step(run, batches)
    assert done.loss_sum == pytest.approx(done.num_tokens * uniform, rel=1e-4)
    assert done.loss_sum != pytest.approx(before, rel=1e-3)


@pytest.mark.gpu
@on_device
def test_a_gradient_that_is_not_finite_leaves_the_weights_alone_on_a_device(
    as_in_use: None, tmp_path: Path
) -> None:
    run = prepare(tmp_path, **LONG)
    batches = next(batches_of(run))
    bad = torch.ones((), device="cuda")
    run.bare_model.lm_head.bias.register_hook(lambda gradient: gradient * bad)
    for _ in range(4):
        take_step(run, batches)
    assert run.step_graphs is not None
    bad.fill_(math.nan)
    before = state_of(run)
    with pytest.raises(NonFiniteError, match="the gradient is nan"):
        take_step(run, batches)
    assert all(torch.equal(x, before[name]) for name, x in state_of(run).items())


@pytest.mark.gpu
@on_device
def test_a_resumed_run_has_the_same_losses(as_in_use: None, tmp_path: Path) -> None:
    run = prepare(tmp_path, **LONG)
    batches = batches_of(run)
    for _ in range(12):
        run.state.step += 1
        take_step(run, next(batches))
    run.save()
    expected = [take_step(run, next(batches)).loss_sum for _ in range(12)]
    again = prepare(tmp_path, **LONG, resume_from_checkpoint="latest")
    assert again.step_graphs is not None
    assert losses(again, 12) == pytest.approx(expected, rel=1e-5)


@pytest.mark.gpu
@on_device
@pytest.mark.parametrize("changes", [{}, {"guided_attention_weight": 0.5}], ids=str)
def test_a_step_on_a_device_waits_for_nothing(
    changes: dict[str, Any], as_in_use: None, tmp_path: Path
) -> None:
    """As it is, recorded and replayed; what it returns is not read here."""
    run = prepare(tmp_path, **LONG, **changes)
    batches = next(batches_of(run))
    take_step(run, batches)
    batch = batches[0] | {"divisor": torch.tensor(7.0)}
    graphs = run.step_graphs
    assert graphs is not None
    whole_step(run, {name: x.cuda() for name, x in batch.items()})
    torch.cuda.synchronize()
    moved = {name: x.cuda() for name, x in batch.items()}
    for body in (partial(whole_step, run, moved), partial(graphs, batch)):
        torch.cuda.set_sync_debug_mode("error")
        try:
            body()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    graphs(batch)  # a recording waits at its beginning
    torch.cuda.set_sync_debug_mode("error")
    try:
        done = graphs(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert done[0].isfinite().all()
