"""The loop: passes, validations, when it stops, and that a resumed run is the same run."""

import itertools
import json
import logging
import math
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch.nn import functional as F

from bahdanau_hf.checkpoints.run_folder import list_checkpoints
from bahdanau_hf.checkpoints.save_load import TrainerState
from bahdanau_hf.training import loop as training
from bahdanau_hf.training.evaluation import validation_loss
from bahdanau_hf.training.loop import StopSignals, TrainingInterrupted, decide
from bahdanau_hf.training.release import choose_weights
from bahdanau_hf.training.run import Run
from bahdanau_hf.training.step import NonFiniteError, StepDone
from tests.helpers.tiny_run import NO_DROPOUT, logged, prepare

# --- passes, validations, checkpoints ------------------------------------------------------------


def test_a_pass_shows_every_pair_once_and_ends_with_a_smaller_step(tmp_path: Path) -> None:
    run = prepare(tmp_path, gradient_accumulation_steps=3, per_device_train_batch_size=7)
    num_pairs = len(run.pairs.encoded["train"])
    state = TrainerState(epoch=3)
    steps = list(run.batches.steps(state, 3))
    sizes = [sum(len(batch["labels"]) for batch in batches) for batches, _ in steps]
    assert sum(sizes) == num_pairs
    assert [ends for _, ends in steps] == [False] * (len(steps) - 1) + [True]
    assert len(steps) == math.ceil(math.ceil(num_pairs / 7) / 3)
    # From the middle on, the rest is the same.
    rest = list(run.batches.steps(TrainerState(epoch=3, batches_done=3), 3))
    assert len(rest) == len(steps) - 1
    for (batches, ends), (again, ends_again) in zip(steps[1:], rest, strict=True):
        assert ends == ends_again
        for one, other in zip(batches, again, strict=True):
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_epochs_validations_and_log(tmp_path: Path) -> None:
    run = prepare(tmp_path, max_train_steps=None, num_train_epochs=1.5, logging_steps=2)
    steps_a_pass = run.batches.batches_in(0)
    assert run.total_steps == math.ceil(1.5 * steps_a_pass)
    state = run.train()
    assert state.step == run.total_steps
    lines = logged(tmp_path)
    validated = [line["step"] for line in lines if "eval_bleu" in line]
    assert validated == [steps_a_pass, run.total_steps]
    trained = [line["step"] for line in lines if "loss" in line]
    assert trained == sorted({*range(2, run.total_steps + 1, 2), run.total_steps})
    assert lines[-1]["epoch"] == pytest.approx(run.total_steps / steps_a_pass, abs=0.01)
    assert list(list_checkpoints(tmp_path)) == validated


def test_it_learns(tmp_path: Path) -> None:
    run = prepare(tmp_path, **NO_DROPOUT, max_train_steps=40, learning_rate=0.02, eval_steps=40)
    run.train()
    losses = [line["loss"] for line in logged(tmp_path) if "loss" in line]
    assert sum(losses[-5:]) < 0.85 * sum(losses[:5])


def measured(scores: Sequence[tuple[float, float]]) -> Callable[[Run], dict[str, float]]:
    """Validations that find these losses and BLEUs in turn."""
    results = iter(scores)

    def measure(run: Run) -> dict[str, float]:
        loss, bleu = next(results)
        return {"eval_loss": loss, "eval_bleu": bleu, "eval_chrf": 0.0}

    return measure


@pytest.mark.parametrize(
    ("metric", "scores", "steps", "best"),
    [
        # BLEU falls, is best at step 3 and falls again; the loss is best at step 1.
        ("bleu", [(1, 5), (2, 4), (3, 9), (4, 9), (5, 8), (6, 7)], 5, 3),
        ("loss", [(1, 5), (2, 4), (3, 9), (4, 9), (5, 8), (6, 7)], 3, 1),
        # Below 1 BLEU is chance, and the loss decides; from 1 on the loss may rise.
        ("bleu", [(5, 0.1), (4, 0.9), (3, 0.1), (2, 0), (3, 0.9), (9, 1), (1, 0.9), (1, 0)], 8, 6),
        ("bleu", [(5, 0.9), (4, 0.1), (4, 0.9), (4, 0.9), (3, 0.1)], 4, 2),
    ],
)
def test_patience_ends_the_run_and_the_best_weights_are_taken(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    metric: str,
    scores: list[tuple[float, float]],
    steps: int,
    best: int,
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(Run, "measure", measured(scores))
    run = prepare(
        tmp_path,
        max_train_steps=20,
        eval_steps=1,
        early_stopping_patience=2,
        metric_for_best_model=metric,
        save_total_limit=1,
    )
    state = run.train()
    assert (state.step, state.best_step) == (steps, best)
    assert state.finished == "2 validations brought no gain (--early_stopping_patience)"
    assert caplog.messages[-1] == (
        f"step {steps}: training ends: {state.finished}; the best validation was at step {best}"
    )
    assert list(list_checkpoints(tmp_path)) == [best, steps]
    assert choose_weights(run)["weights"] == f"checkpoint-{best}"
    saved = load_file(tmp_path / f"checkpoint-{best}" / "model.safetensors")
    for name, tensor in run.bare_model.state_dict().items():
        assert torch.equal(tensor, saved[name]), name


@pytest.mark.parametrize(("mean_bleu", "is_taken"), [(9.5, True), (9.0, False)])
def test_mean_of_the_last_checkpoints_is_taken_if_validation_agrees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mean_bleu: float, is_taken: bool
) -> None:
    scores = [(1, 9), (1, 5), (1, 6), (1, 7)]
    monkeypatch.setattr(Run, "measure", measured([*scores, (2, mean_bleu)]))
    run = prepare(
        tmp_path, eval_steps=1, save_steps=100, average_last_checkpoints=3, save_total_limit=1
    )
    run.train()
    # The three that are averaged and the best; nothing needed is removed, nothing else kept.
    assert list(list_checkpoints(tmp_path)) == [1, 2, 3, 4]
    result = choose_weights(run)
    assert result["weights"] == ("mean of the steps 2, 3, 4" if is_taken else "checkpoint-1")
    assert result["loss"] == (2 if is_taken else 1)
    steps = [2, 3, 4] if is_taken else [1]
    saved = [load_file(tmp_path / f"checkpoint-{step}" / "model.safetensors") for step in steps]
    for name, tensor in run.bare_model.state_dict().items():
        expected = torch.stack([weights[name] for weights in saved]).double().mean(0).float()
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-7)


def test_accelerate_may_compile_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`accelerate config` offers it: steps go through what is compiled, all else does not."""
    from torch._dynamo import OptimizedModule  # a second, which no other test needs

    plain = prepare(tmp_path / "plain", max_train_steps=2, encoder_layers=1, **NO_DROPOUT)
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "eager")
    # The wrapper of what is compiled, without the compiler, which takes seconds.
    monkeypatch.setattr(torch, "compile", lambda m, **_: OptimizedModule(m, lambda f: f))
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})  # which read it once a process
    compiled = prepare(tmp_path / "compiled", max_train_steps=2, encoder_layers=1, **NO_DROPOUT)
    assert compiled.model is not compiled.bare_model
    for run in (plain, compiled):
        run.train()
    of_plain, of_compiled = (run.bare_model.state_dict() for run in (plain, compiled))
    torch.testing.assert_close(of_compiled, of_plain, rtol=1e-5, atol=1e-6)


def test_time_is_up(tmp_path: Path) -> None:
    run = prepare(tmp_path, max_train_steps=10_000, max_train_seconds=0.3, eval_steps=10_000)
    state = run.train()
    assert state.finished == "--max_train_seconds 0.3 are over"
    assert 1 <= state.step < 10_000
    assert list(list_checkpoints(tmp_path)) == [state.step]
    # Earlier sittings count: nothing is left of the time.
    again = prepare(
        tmp_path, max_train_steps=10_000, max_train_seconds=0.3, resume_from_checkpoint="latest"
    )
    assert again.state.finished == state.finished
    more = prepare(
        tmp_path, max_train_steps=10_000, max_train_seconds=1e6, resume_from_checkpoint="latest"
    )
    assert more.state.finished == ""


def test_validation_loss_counts_each_token_once_whatever_the_batches(tmp_path: Path) -> None:
    run = prepare(tmp_path)
    encoded = run.pairs.encoded["validation"]
    assert len(encoded) > 5
    run.bare_model.eval()
    loss_sum, num_tokens = 0.0, 0
    for row in encoded:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        logits = run.bare_model(input_ids=ids, labels=labels).logits
        loss_sum += F.cross_entropy(logits[0], labels[0], reduction="sum").item()
        num_tokens += len(row["labels"])
    run.bare_model.train()
    for batch_size in (1, 4, 100):
        run.settings.train.per_device_eval_batch_size = batch_size
        loss = validation_loss(run)
        assert loss == pytest.approx(loss_sum / num_tokens, rel=1e-5)
    assert run.bare_model.training


# --- going on ------------------------------------------------------------------------------------


def interrupt_after(monkeypatch: pytest.MonkeyPatch, step: int, signum: int) -> None:
    """Send a real signal to this process in the middle of a step."""
    original = training.take_step

    def take_and_signal(run: Run, *arguments: Any) -> Any:
        if run.state.step + 1 == step:
            os.kill(os.getpid(), signum)
        return original(run, *arguments)

    monkeypatch.setattr(training, "take_step", take_and_signal)


RESUMED = {
    "plain": {},
    "by tokens, accumulated": {"max_tokens_per_batch": 80, "gradient_accumulation_steps": 2},
    "warm-up, decay, log between": {
        "num_warmup_steps": 3,
        "weight_decay": 0.1,
        "lr_scheduler_type": "cosine",
        "logging_steps": 3,
    },
    "adam, tutorial's loss": {
        "optimizer": "adam",
        "loss_reduction": "tutorial",
        "bucket_by_length": False,
        "pad_to_max_length": True,
    },
    "workers, noise": {"dataloader_num_workers": 1, "source_noise": 0.3},
    "stream, noise": {
        **{"streaming": True, "shuffle_buffer_size": 20, "eval_steps": 3, "source_noise": 0.3},
    },
    "at the end of a pass": {"per_device_train_batch_size": 30},  # which has two steps
    "at the end of a pass, accumulated": {
        "per_device_train_batch_size": 15,  # four batches
        "gradient_accumulation_steps": 2,
        "early_stopping_patience": 9,
    },
    "at the end of a pass, workers": {
        "per_device_train_batch_size": 30,
        "dataloader_num_workers": 2,
    },
    "at the end of a stream's window": {"streaming": True, "shuffle_buffer_size": 16},
}


@pytest.mark.parametrize(
    "changes",
    [
        # Slow is where two of the others meet.
        pytest.param(changes, id=name, marks=[pytest.mark.slow] if "pass, " in name else [])
        for name, changes in RESUMED.items()
    ],
)
def test_train_4_equals_train_2_resume_train_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Stopped by a signal inside a pass, and taken up again: the same run to the bit."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    prepare(whole, **changes).train()
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, signal.SIGTERM)
        with pytest.raises(TrainingInterrupted) as stop:
            prepare(parts, **changes).train()
    assert stop.value.signum == signal.SIGTERM
    assert stop.value.checkpoint == parts / "checkpoint-2"
    torch.manual_seed(0)  # the resumed run must not live on the first one's random numbers
    state = prepare(parts, **changes, resume_from_checkpoint="latest").train()
    assert state.step == 4
    assert logged(parts) == logged(whole)
    for name in ("model", "optimizer", "rng_state_0"):
        expected = load_file(whole / "checkpoint-4" / f"{name}.safetensors")
        actual = load_file(parts / "checkpoint-4" / f"{name}.safetensors")
        assert actual.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(actual[key], tensor), f"{name} {key}"
    # Scheduler, place in the data, early stopping, identity: all that is no tensor.
    records = [
        json.loads((folder / "checkpoint-4" / "trainer_state.json").read_text())
        for folder in (whole, parts)
    ]
    for record in records:
        record["state"] = {k: v for k, v in record["state"].items() if "seconds" not in k}
        for line in record["state"]["validations"]:
            del line["seconds"]
    assert records[0] == records[1]


def test_resuming_over_the_end_of_a_pass(tmp_path: Path) -> None:
    """Ended by its steps, then given more of them: with a constant rate, the same run too."""
    changes = {"lr_scheduler_type": "constant", "per_device_train_batch_size": 20}
    steps_a_pass = prepare(tmp_path / "probe", **changes).batches.batches_in(0)
    assert steps_a_pass == 3
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    prepare(whole, **changes, max_train_steps=7, eval_steps=3).train()
    prepare(parts, **changes, max_train_steps=3, eval_steps=3).train()
    run = prepare(
        parts, **changes, max_train_steps=7, eval_steps=3, resume_from_checkpoint="latest"
    )
    assert (run.state.epoch, run.state.batches_done, run.state.finished) == (1, 0, "")
    run.train()
    assert logged(parts) == logged(whole)


def test_early_stopping_remembers_over_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"max_train_steps": 20, "eval_steps": 1, "early_stopping_patience": 3}
    monkeypatch.setattr(Run, "measure", measured([(1, 5), (1, 4), (1, 3), (1, 2), (1, 9)]))
    with monkeypatch.context() as patch:
        interrupt_after(patch, 2, signal.SIGINT)
        with pytest.raises(TrainingInterrupted):
            prepare(tmp_path, **changes).train()
    state = prepare(tmp_path, **changes, resume_from_checkpoint="latest").train()
    assert (state.step, state.best_step) == (4, 1)


# --- what follows a step -------------------------------------------------------------------------


def test_what_follows_a_step(tmp_path: Path) -> None:
    run = prepare(tmp_path, max_train_steps=12, logging_steps=2, eval_steps=3, save_steps=5)

    def follows(step: int, *reasons: str) -> str:
        run.state.step = step
        done = StepDone(1.0, 1, 1.0, frozenset(reasons), 0.1)
        control = decide(run, done, ends_epoch=True)
        assert control.should_stop == bool(run.state.finished)
        names = ("should_log", "should_evaluate", "should_save", "should_stop", "interrupted_by")
        return " ".join(name.removeprefix("should_") for name in names if getattr(control, name))

    run.settings.train.max_train_seconds = 9
    assert [follows(step) for step in (1, 2, 3, 5, 6)] == [
        "",
        "log",
        "evaluate",
        "save",
        "log evaluate",
    ]
    assert follows(12) == "log evaluate stop"
    assert follows(7, "out of time") == "log evaluate stop"
    assert run.state.finished == "--max_train_seconds 9 are over"
    assert follows(7, "SIGTERM") == "interrupted_by"
    assert (
        decide(run, StepDone(1.0, 1, 1.0, frozenset({"SIGTERM"}), 0.1), False).interrupted_by == 15
    )
    # Without intervals: each epoch's end, and whatever is averaged in the end is kept.
    run.settings.train.eval_steps = run.settings.train.save_steps = None
    assert follows(7) == "evaluate save"
    run.settings.train.save_steps, run.settings.train.average_last_checkpoints = 100, 2
    assert follows(7) == "evaluate save"


# --- stopping ------------------------------------------------------------------------------------


def test_signal_handlers_are_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = [signal.getsignal(kind) for kind in StopSignals.kinds]
    interrupt_after(monkeypatch, 1, signal.SIGINT)
    with pytest.raises(TrainingInterrupted) as stop:
        prepare(tmp_path).train()
    assert stop.value.signum == signal.SIGINT
    assert [signal.getsignal(kind) for kind in StopSignals.kinds] == before


def test_a_second_signal_is_not_held_back() -> None:
    # Started in the background, this process may have been told to ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with StopSignals() as signals:
            os.kill(os.getpid(), signal.SIGINT)
            assert signals.received == {"SIGINT": True, "SIGTERM": False}
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("where", "what"), [("loss", "the loss is nan"), ("gradient", "the gradient is inf")]
)
def test_what_is_not_finite_stops_before_the_weights_are_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, what: str
) -> None:
    run = prepare(tmp_path, eval_steps=2)
    original, calls = run.bare_model.forward, itertools.count(1)
    before: dict[str, torch.Tensor] = {}

    def forward(*arguments: Any, **options: Any) -> Any:
        output = original(*arguments, **options)
        if "labels" in options and run.bare_model.training and next(calls) == 3:
            before.update({k: v.clone() for k, v in run.bare_model.state_dict().items()})
            if where == "loss":
                output.loss = output.loss * math.nan
            else:
                run.bare_model.lm_head.bias.register_hook(lambda gradient: gradient * math.inf)
        return output

    monkeypatch.setattr(run.bare_model, "forward", forward)
    with pytest.raises(
        NonFiniteError, match=rf"step 3: {what}.*/checkpoint-2 and a lower"
    ) as error:
        run.train()
    assert "\n" not in str(error.value)
    for name, tensor in run.bare_model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert list(list_checkpoints(tmp_path)) == [2]
