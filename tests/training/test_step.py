"""One optimizer step: its gradient, what it reports, and the rate and decay it takes place with."""

import itertools
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from bahdanau_hf.alignment.guided_loss import add_best_sources
from bahdanau_hf.data.batching import IGNORED_LABEL, PairCollator, PairTable, Rooms
from bahdanau_hf.errors import InputError
from bahdanau_hf.gpu.step_graphs import StepGraphs
from bahdanau_hf.modeling import modeling_bahdanau
from bahdanau_hf.training.arguments import TrainArguments
from bahdanau_hf.training.pairs import TrainingBatches, fixed_lengths, made_ahead
from bahdanau_hf.training.run import Run, make_optimizer
from bahdanau_hf.training.step import take_step, whole_step
from tests.helpers.looks import Looks
from tests.helpers.tiny_run import NO_DROPOUT, logged, prepare


def features(run: Run, indices: Iterator[int] | range) -> list[dict[str, Any]]:
    return [run.pairs.encoded["train"][i] for i in indices]


def gradients(run: Run) -> dict[str, torch.Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in run.bare_model.named_parameters()
        if parameter.grad is not None
    }


def gradients_of_step(run: Run, batches: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What `take_step` hands to the optimizer."""
    seen: dict[str, torch.Tensor] = {}
    run.optimizer.optimizer.register_step_pre_hook(lambda *_: seen.update(gradients(run)))
    take_step(run, batches)
    return seen


def assert_close(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(actual[name], value, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("number", [1, 2, 4])
def test_batches_made_ahead_are_the_same(number: int) -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(5):
            made.append(i)
            yield i
        raise InputError("the loader's own error")

    ahead = made_ahead(items(), number)
    for i in range(5):
        assert next(ahead) == i
        assert len(made) <= i + 1 + number
    with pytest.raises(InputError, match="own error"):
        next(ahead)
    before = threading.active_count()
    stopped = made_ahead(iter(range(9)), number)
    assert next(stopped) == 0
    assert threading.active_count() == before + 1
    stopped.close()  # and no thread is left that would keep the process
    assert threading.active_count() == before


def test_a_run_that_makes_batches_ahead_takes_the_same_steps(tmp_path: Path) -> None:
    plain, ahead = (prepare(tmp_path / name) for name in ("plain", "ahead"))
    ahead.batches.loader.pin_memory = True  # as for a GPU; without one nothing is pinned
    steps = (list(run.batches.steps(run.state, 2)) for run in (plain, ahead))
    for one, other in zip(*steps, strict=True):
        assert one[1] == other[1]
        for a, b in zip(one[0], other[0], strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("bound", ["batch_size", "max_tokens"])
def test_a_batch_in_a_room_makes_the_same_step(tmp_path: Path, bound: str) -> None:
    steps = []
    for rooms in (None, Rooms(64, None) if bound == "batch_size" else Rooms(None, 500)):
        run = prepare(tmp_path / str(rooms), **NO_DROPOUT, guided_attention_weight=0.5)
        table = PairTable(add_best_sources(run.pairs.encoded["train"]), rooms=rooms)
        batches = [table[range(start, start + 21)] for start in (0, 21)]
        steps.append((batches, gradients_of_step(run, batches)))
    (plain, expected), (padded, actual) = steps
    for one, other in zip(plain, padded, strict=True):
        assert all(len(one[name]) < len(other[name]) for name in one)
        assert one["input_ids"].shape[1] < other["input_ids"].shape[1]
    assert_close(actual, expected)


@pytest.mark.parametrize(
    ("device", "changes", "reads_padding", "is_padded"),
    [
        ("cuda", {}, False, True),
        ("cpu", {}, False, False),
        ("mps", {}, False, False),
        # What is divided by the padded length, or reads the padding, would change.
        ("cuda", {"loss_reduction": "tutorial"}, False, False),
        ("cuda", {}, True, False),
    ],
)
def test_batches_are_padded_to_rooms_where_that_changes_nothing(
    tmp_path: Path, device: str, changes: dict[str, Any], reads_padding: bool, is_padded: bool
) -> None:
    run = prepare(tmp_path, max_tokens_per_batch=100, **changes)
    run.accelerator.state.device = torch.device(device)
    try:
        batches = TrainingBatches(
            *(run.accelerator, run.settings, run.pairs.encoded["train"]),
            reads_padding=reads_padding,
        )
    finally:
        run.accelerator.state.device = torch.device("cpu")
    assert batches.loader.dataset.rooms == (Rooms(None, 100) if is_padded else None)


@pytest.mark.parametrize(("num_batches", "graphed"), [(1, False), (3, False), (1, True)])
def test_nothing_that_a_device_computes_is_looked_at_before_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_batches: int, graphed: bool
) -> None:
    """Labels are counted on the host, of each batch; loss and norm come back in one copy."""
    run = prepare(tmp_path, guided_attention_weight=0.5)
    monkeypatch.setattr(modeling_bahdanau, "look_costs", lambda x: torch.is_grad_enabled())
    first_batch = next(iter(run.batches.steps(run.state, 1)))[0][0]
    take_step(run, [first_batch])  # in a process's first one the processor is asked what it can do
    if graphed:
        run.step_graphs = StepGraphs(partial(whole_step, run), run.optimizer.optimizer)
    copies: list[int] = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda x: copies.append(x.numel()) or tolist(x))
    with Looks() as looks:
        done = take_step(run, [first_batch] * num_batches)
    assert looks.seen == ["aten._local_scalar_dense.default"] * num_batches
    assert copies == [2]
    assert done.loss_sum > 0
    assert done.grad_norm > 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gradient_is_that_of_the_mean_over_all_target_tokens(
    tmp_path: Path, smoothing: float
) -> None:
    run = prepare(tmp_path, **NO_DROPOUT, label_smoothing_factor=smoothing, max_grad_norm=0)
    batch = PairCollator(fixed_lengths(run.settings.data))(features(run, range(11)))
    logits = run.bare_model(**batch).logits
    real = batch["labels"] != IGNORED_LABEL
    log_probabilities = F.log_softmax(logits[real], dim=-1)
    chosen = log_probabilities.gather(1, batch["labels"][real][:, None])
    losses = -(1 - smoothing) * chosen.squeeze(1) - smoothing * log_probabilities.mean(1)
    losses.mean().backward()
    expected = gradients(run)
    run.optimizer.zero_grad()
    assert_close(gradients_of_step(run, [batch]), expected)


def test_micro_batches_of_unlike_size_give_the_gradient_of_one_batch(tmp_path: Path) -> None:
    changes = {**NO_DROPOUT, "label_smoothing_factor": 0.1, "max_grad_norm": 0}
    collator = PairCollator(fixed_lengths(prepare(tmp_path / "a", **changes).settings.data))
    results: list[dict[str, torch.Tensor]] = []
    for accumulation, cuts in ((1, [0, 11]), (2, [0, 3, 11]), (3, [0, 1, 7, 11]), (3, [0, 5, 11])):
        folder = tmp_path / f"{len(results)}"
        run = prepare(folder, **changes, gradient_accumulation_steps=accumulation)
        # A last step of a pass may hold fewer micro-batches than the others.
        parts = [range(a, b) for a, b in itertools.pairwise(cuts)]
        batches = [collator(features(run, part)) for part in parts]
        results.append(gradients_of_step(run, batches))
    for result in results[1:]:
        assert_close(result, results[0])


def test_tutorial_loss_is_the_tutorials(tmp_path: Path) -> None:
    run = prepare(tmp_path, **NO_DROPOUT, loss_reduction="tutorial", max_grad_norm=0)
    batch = PairCollator(fixed_lengths(run.settings.data))(features(run, range(7)))
    real = batch["labels"] != IGNORED_LABEL
    labels = batch["labels"].masked_fill(~real, 0)
    logits = run.bare_model(**batch).logits
    # MaskedSoftmaxCELoss of the tutorial, then `l.sum().backward()`.
    unweighted = F.cross_entropy(logits.permute(0, 2, 1), labels, reduction="none")
    (unweighted * real).mean(dim=1).sum().backward()
    expected = gradients(run)
    run.optimizer.zero_grad()
    assert_close(gradients_of_step(run, [batch]), expected)


@pytest.mark.parametrize("padded", [False, True])
def test_filling_of_a_batch_changes_no_divisor(tmp_path: Path, padded: bool) -> None:
    """The tutorial's is the longest target, or the length that all are padded to."""
    changes = {"loss_reduction": "tutorial", "max_grad_norm": 0, "pad_to_max_length": padded}
    results: list[dict[str, torch.Tensor]] = []
    for fill in (0, 3):
        run = prepare(tmp_path / str(fill), **NO_DROPOUT, **changes)
        batch = PairCollator(fixed_lengths(run.settings.data))(features(run, range(7)))
        for name, filler in {"input_ids": 0, "attention_mask": 0, "labels": IGNORED_LABEL}.items():
            batch[name] = F.pad(batch[name], (0, fill, 0, fill), value=filler)
        batch["attention_mask"][7:, 0] = 1
        results.append(gradients_of_step(run, [batch]))
    assert_close(results[1], results[0])


def test_step_reports_loss_tokens_and_norm_and_clips(tmp_path: Path) -> None:
    run = prepare(tmp_path, **NO_DROPOUT, max_grad_norm=0.01)
    batch = PairCollator(fixed_lengths(run.settings.data))(features(run, range(5)))
    loss = run.bare_model(**batch).loss.item()
    num_tokens = int((batch["labels"] != IGNORED_LABEL).sum())
    seen: dict[str, torch.Tensor] = {}
    run.optimizer.optimizer.register_step_pre_hook(lambda *_: seen.update(gradients(run)))
    done = take_step(run, [batch], lambda: {"a": False, "b": True})
    assert done.num_tokens == num_tokens
    assert done.loss_sum == pytest.approx(loss * num_tokens, rel=1e-5)
    assert done.reasons_to_stop == {"b"}
    clipped = torch.stack([gradient.norm() for gradient in seen.values()]).norm()
    assert done.grad_norm > 0.1
    assert float(clipped) == pytest.approx(0.01, rel=1e-3)


def test_weights_and_not_biases_or_embeddings_decay(tmp_path: Path) -> None:
    model = prepare(tmp_path).bare_model
    optimizer = make_optimizer(model, TrainArguments(weight_decay=0.25))
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, parameter in model.named_parameters():
        is_spared = "bias" in name or "embed_tokens" in name
        assert decay.pop(id(parameter)) == (0 if is_spared else 0.25), name
    assert not decay


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", [0, 0.5, 1, 0.75, 0.5, 0.25]),
        ("cosine", [0, 0.5, 1, 0.8535534, 0.5, 0.1464466]),
        ("constant", [1, 1, 1, 1, 1, 1]),
        ("constant_with_warmup", [0, 0.5, 1, 1, 1, 1]),
        ("inverse_sqrt", [0, 0.5, 1, (2 / 3) ** 0.5, 0.5**0.5, 0.4**0.5]),
    ],
)
def test_schedules(tmp_path: Path, schedule: str, expected: list[float]) -> None:
    warmup = 0 if schedule == "constant" else 2
    run = prepare(
        tmp_path,
        lr_scheduler_type=schedule,
        num_warmup_steps=warmup,
        max_train_steps=6,
        learning_rate=0.125,
        eval_steps=100,
    )
    run.train()
    rates = [line["learning_rate"] for line in logged(tmp_path) if "learning_rate" in line]
    assert rates == pytest.approx([0.125 * share for share in expected])
