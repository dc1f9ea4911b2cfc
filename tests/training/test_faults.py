"""What a disk, a number or the memory can do to a run: one clear line, and nothing lost."""

import json
import math
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.optimizer import AcceleratedOptimizer
from safetensors.torch import load_file

from bahdanau_hf import InputError
from bahdanau_hf.checkpoints.run_folder import find_checkpoint, list_checkpoints, write_whole
from bahdanau_hf.data.batching import PairCollator
from bahdanau_hf.inference.loading import load_model
from bahdanau_hf.training.pairs import fixed_lengths
from bahdanau_hf.training.release import choose_weights
from bahdanau_hf.training.run import Run
from bahdanau_hf.training.step import NonFiniteError, OutOfMemory, take_step
from tests.helpers.places import PAIRS
from tests.helpers.tiny_run import NO_DROPOUT, logged, prepare, train_script

# --- disks ---------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of four megabytes, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill_disk(folder: Path, leave: int = 0) -> Path:
    """Write until the disk is full but for so many bytes."""
    status = os.statvfs(folder)
    filler = folder / f"filler-{status.f_bavail}"
    filler.write_bytes(bytes(max(0, status.f_bavail * status.f_bsize - leave)))
    return filler


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_a_line_and_it_goes_on_when_there_is_room(
    small_disk: Path, tmp_path: Path
) -> None:
    changes = {"save_steps": 1, "eval_steps": 4, "save_total_limit": 9}
    prepare(tmp_path / "whole", **changes).train()
    run = prepare(small_disk / "run", **changes)
    run.save()
    filler = fill_disk(small_disk, leave=200_000)  # there is room for some of a checkpoint
    with pytest.raises(InputError, match=r"^cannot write .*checkpoint-\d: No space left") as error:
        run.train()
    assert "\n" not in str(error.value)
    assert "--resume_from_checkpoint latest" in str(error.value)
    assert not [path for path in (small_disk / "run").iterdir() if path.name.startswith(".")]
    for path in list_checkpoints(small_disk / "run").values():
        assert find_checkpoint(small_disk, str(path)) == path
    filler.unlink()
    again = prepare(small_disk / "run", **changes, resume_from_checkpoint="latest")
    again.train()
    expected = load_file(tmp_path / "whole" / "checkpoint-4" / "model.safetensors")
    actual = load_file(small_disk / "run" / "checkpoint-4" / "model.safetensors")
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_records_and_release_on_a_full_disk(small_disk: Path) -> None:
    run = prepare(small_disk / "run")
    run.save_release()
    before = {p.name: p.read_bytes() for p in run.output_dir.iterdir() if p.name != "README.md"}
    with torch.no_grad():
        run.bare_model.lm_head.bias.fill_(7)
    fill_disk(small_disk, leave=8192)
    with pytest.raises(InputError, match=r"cannot write .*model.safetensors: No space left"):
        run.save_release()
    # What stood there is still whole, and no part of the new one is among it.
    after = {p.name: p.read_bytes() for p in run.output_dir.iterdir() if p.name != "README.md"}
    assert after == before
    fill_disk(small_disk)
    with pytest.raises(InputError, match=r"cannot write .*notes\.json: No space left"):
        write_whole(small_disk / "notes.json", "x" * 10_000)


def test_a_disk_that_turns_read_only(small_disk: Path) -> None:
    run = prepare(small_disk, save_steps=1)
    run.save()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(InputError, match=r"cannot write .*: Read-only file system"):
        run.train()
    with pytest.raises(InputError, match=r"cannot write to --output_dir .*: Read-only file system"):
        prepare(small_disk, resume_from_checkpoint="latest")
    assert find_checkpoint(small_disk, "latest") == small_disk / "checkpoint-0"


def test_what_a_killed_run_left_is_removed_by_the_next(tmp_path: Path) -> None:
    prepare(tmp_path).save()
    (tmp_path / ".checkpoint-3.unfinished-77").mkdir()
    (tmp_path / ".checkpoint-3.unfinished-77" / "model.safetensors").write_bytes(b"half")
    (tmp_path / ".removed-checkpoint-1").mkdir()
    (tmp_path / ".settings.json.unfinished-77").write_text("{")
    (tmp_path / ".gitignore").write_text("mine")
    prepare(tmp_path, resume_from_checkpoint="latest")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", "checkpoint-0"]


def flip_bit(path: Path, place: int = -1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def test_a_model_of_a_damaged_checkpoint_is_not_used(tmp_path: Path) -> None:
    run = prepare(tmp_path, max_train_steps=2, eval_steps=1)
    run.train()
    folder = tmp_path / "checkpoint-2"
    load_model(folder)
    flip_bit(folder / "model.safetensors")  # the last bit of a number: it would load
    with pytest.raises(InputError, match=r"model\.safetensors is not as it was written"):
        load_model(folder)


@pytest.mark.parametrize("is_best", [True, False])
def test_damaged_weights_are_not_chosen(tmp_path: Path, is_best: bool) -> None:
    """Neither alone, if it is the best checkpoint, nor in the mean of several."""
    averaged = 0 if is_best else 2
    run = prepare(tmp_path, max_train_steps=2, eval_steps=1, average_last_checkpoints=averaged)
    run.train()
    damaged = next(step for step in (1, 2) if (step == run.state.best_step) == is_best)
    flip_bit(tmp_path / f"checkpoint-{damaged}" / "model.safetensors")
    with pytest.raises(InputError, match=r"model\.safetensors is not as it was written"):
        choose_weights(run)


@pytest.mark.slow
def test_damaged_weights_do_not_become_the_release(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"max_train_steps": 1}
    assert train_script(tmp_path, **changes) == 0
    (tmp_path / "eval_results.json").unlink()
    flip_bit(tmp_path / "checkpoint-1" / "model.safetensors")
    assert train_script(tmp_path, **changes, resume_from_checkpoint="latest") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: no checkpoint in ")
    assert "is whole" in error


# --- numbers -------------------------------------------------------------------------------------


def with_scaler(run: Run, scale: float, patch: pytest.MonkeyPatch) -> torch.amp.GradScaler:
    """Give a run what float16 gives it on a GPU: a gradient scaler that its optimizer asks."""
    scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
    run.accelerator.scaler = scaler
    run.accelerator.native_amp = True
    patch.setattr(run.accelerator.state, "_mixed_precision", "fp16")  # shared by all runs
    run.optimizer = AcceleratedOptimizer(
        run.optimizer.optimizer, device_placement=False, scaler=scaler
    )
    run.accelerator._optimizers = [run.optimizer]
    return scaler


def test_steps_that_the_scaler_skips_are_counted_and_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scale begins so high that gradients overflow; halved often enough, they no longer do."""
    run = prepare(tmp_path, max_train_steps=8, eval_steps=9)
    run.bare_model.lm_head.bias.register_hook(lambda gradient: gradient * 30)
    scaler = with_scaler(run, 2.0**127, monkeypatch)
    weights = [{k: v.clone() for k, v in run.bare_model.state_dict().items()}]
    rates, skipped = [run.scheduler.get_last_lr()[0]], []
    for batches, _ in run.batches.steps(run.state, 1):
        scale = scaler.get_scale()
        done = take_step(run, batches)
        skipped.append(done.was_skipped)
        assert done.was_skipped == (scaler.get_scale() == scale / 2)
        assert done.was_skipped == (not math.isfinite(done.grad_norm))
        weights.append({k: v.clone() for k, v in run.bare_model.state_dict().items()})
        rates.append(run.scheduler.get_last_lr()[0])
    assert skipped[0]
    assert not skipped[1]
    for i, was_skipped in enumerate(skipped):
        same = all(torch.equal(weights[i][name], weights[i + 1][name]) for name in weights[i])
        assert same == was_skipped
        assert (rates[i] == rates[i + 1]) == was_skipped


def test_a_gradient_that_no_scale_saves_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(tmp_path, max_train_steps=50, eval_steps=99)
    with_scaler(run, 8.0, monkeypatch)
    run.bare_model.lm_head.bias.register_hook(lambda gradient: gradient * math.nan)
    before = {k: v.clone() for k, v in run.bare_model.state_dict().items()}
    with pytest.raises(NonFiniteError, match="step 5: the gradient is nan"):
        run.train()
    assert run.state.skipped_steps == 4  # at the scales 8, 4, 2 and 1
    assert [line["skipped_steps"] for line in logged(tmp_path)] == [1, 2, 3, 4]
    assert [line["grad_norm"] for line in logged(tmp_path)] == [None] * 4
    for name, tensor in run.bare_model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_weights_that_an_update_has_blown_up_are_not_saved(tmp_path: Path) -> None:
    run = prepare(tmp_path, save_steps=1, eval_steps=9)
    run.save()
    bias = run.bare_model.lm_head.bias
    run.optimizer.optimizer.register_step_post_hook(lambda *_: bias.data.fill_(math.inf))
    with pytest.raises(NonFiniteError, match="step 1: a weight is no longer finite") as error:
        run.train()
    assert f"--model_name_or_path {tmp_path}/checkpoint-0" in str(error.value)
    assert list(list_checkpoints(tmp_path)) == [0]


# --- memory --------------------------------------------------------------------------------------


def cuda_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def allocator_is_refused() -> None:
    torch.empty(2**60, dtype=torch.uint8)  # the allocator's own words


def run_out(
    run: Run, monkeypatch: pytest.MonkeyPatch, fail: Callable[[], None], largest: int
) -> list[int]:
    """Let batches of more than `largest` pairs not fit; returns the sizes that were tried."""
    original, sizes = run.bare_model.forward, []

    def forward(**options: Any) -> Any:
        if run.bare_model.training:
            sizes.append(len(options["labels"]))
            if sizes[-1] > largest:
                original(**options).loss.backward()  # a part of the gradient is there already
                fail()
        return original(**options)

    monkeypatch.setattr(run.bare_model, "forward", forward)
    return sizes


@pytest.mark.parametrize(
    ("fail", "reduction"), [(cuda_is_full, "tutorial"), (allocator_is_refused, "tokens")]
)
def test_a_batch_that_does_not_fit_is_taken_again_in_halves(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fail: Callable[[], None],
    reduction: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    changes = {**NO_DROPOUT, "gradient_accumulation_steps": 2, "loss_reduction": reduction}
    results = []
    for is_small in (False, True):
        run = prepare(tmp_path / str(is_small), **changes, max_grad_norm=0)
        rows = [run.pairs.encoded["train"][i] for i in range(12)]
        collate = PairCollator(fixed_lengths(run.settings.data))
        sizes = run_out(run, monkeypatch, fail, 4) if is_small else []
        gradients: dict[str, torch.Tensor] = {}
        run.optimizer.optimizer.register_step_pre_hook(
            lambda *_, run=run, gradients=gradients: gradients.update(
                {name: p.grad.clone() for name, p in run.bare_model.named_parameters()}
            )
        )
        done = take_step(run, [collate(rows[:5]), collate(rows[5:])])
        results.append((done.loss_sum, done.num_tokens, gradients))
    assert sizes == [5, 2, 3, 3, 4]
    assert "step 1: out of memory in a batch of 7 pairs" in caplog.text
    (loss, tokens, expected), (other_loss, other_tokens, actual) = results
    assert other_tokens == tokens
    assert other_loss == pytest.approx(loss, rel=1e-5)
    for name, gradient in expected.items():
        torch.testing.assert_close(actual[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    ("changes", "largest", "sizes"),
    # Halves would draw other dropout; halves that do not fit either; nothing left to halve.
    [({}, 7, [8]), (NO_DROPOUT, 3, [8, 4]), ({**NO_DROPOUT, "per_device": 1}, 0, [1])],
)
def test_otherwise_it_is_told_what_to_lower(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    largest: int,
    sizes: list[int],
) -> None:
    changes = dict(changes)
    size = changes.pop("per_device", 8)
    run = prepare(tmp_path, **changes, per_device_train_batch_size=size)
    tried = run_out(run, monkeypatch, cuda_is_full, largest)
    before = {k: v.clone() for k, v in run.bare_model.state_dict().items()}
    with pytest.raises(OutOfMemory, match=rf"step 1: out of memory in a batch of {size}") as error:
        run.train()
    assert "--per_device_train_batch_size" in str(error.value)
    assert tried == sizes
    for name, tensor in run.bare_model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_memory_runs_out_in_validation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = prepare(tmp_path, eval_steps=1)
    monkeypatch.setattr(Run, "measure", lambda run: cuda_is_full())
    with pytest.raises(OutOfMemory, match=r"in validation.*--per_device_eval_batch_size than 128"):
        run.train()


def test_another_runtime_error_is_not_taken_for_a_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise RuntimeError("shapes do not fit")

    run = prepare(tmp_path, **NO_DROPOUT)
    run_out(run, monkeypatch, fail, 3)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run.train()


# --- a stream that is another --------------------------------------------------------------------


def test_a_stream_knows_its_file(tmp_path: Path) -> None:
    text = PAIRS.read_text(encoding="utf-8")
    file = tmp_path / "pairs.tsv"
    file.write_text(text, encoding="utf-8")
    changes = {"train_file": file, "validation_file": PAIRS, "streaming": True}
    prepare(tmp_path / "run", **changes).save()
    moved = tmp_path / "moved.tsv"
    moved.write_text(text, encoding="utf-8")
    prepare(tmp_path / "run", **{**changes, "train_file": moved}, resume_from_checkpoint="latest")
    file.write_text(text.replace("Good", "Food", 1), encoding="utf-8")
    with pytest.raises(InputError, match="the train pairs are not the same"):
        prepare(tmp_path / "run", **changes, resume_from_checkpoint="latest")
    state = json.loads((tmp_path / "run" / "checkpoint-0" / "trainer_state.json").read_text())
    assert state["identity"]["recipe"]["max_length_ratio"] == 9.0
    assert "max_length_ratio" not in _recipe(tmp_path / "table")


def _recipe(folder: Path) -> dict[str, Any]:
    run = prepare(folder)
    return dict(run.identity["recipe"])
