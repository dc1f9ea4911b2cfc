"""Checkpoints from which a run goes on to the bit, written so that a crash leaves a whole one.

A run's `checkpoint-STEP` is a folder that loads as a model (weights, configuration, tokenizer and
code) and holds besides, in JSON and safetensors alone:

    trainer_state.json            `TrainerState`, schedule, optimizer settings, the run's identity
    optimizer.safetensors         the moments, by the names of the parameters
    rng_state_RANK.safetensors    the random generators of each process
    manifest.json                 size and SHA-256 of every other file

`run_folder.py` sees to it that a folder of that name is whole.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, load_model, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..distributed import gather_lists, on_main_process
from ..errors import InputError
from ..files import flush_to_disk, read_json, write_json
from .run_folder import remove_checkpoint, seal_checkpoint, share_files, writing_aside

STATE = "trainer_state.json"
OPTIMIZER = "optimizer.safetensors"


@dataclass
class TrainerState:
    """How far a run has come: everything that the next step depends on besides the tensors."""

    step: int = 0  # optimizer steps taken
    epoch: int = 0  # passes over the training pairs that are over
    batches_done: int = 0  # batches that each process has taken from the present pass
    stream: dict[str, Any] | None = None  # where the stream of training pairs stands
    seconds: float = 0.0  # wall clock of training, earlier sittings and validations included
    loss_sum: float = 0.0  # since the last line of the log, as the next two
    num_tokens: int = 0  # of the targets
    logged_seconds: float = 0.0  # of training, without validations
    validations: list[dict[str, Any]] = field(default_factory=list)  # what each measured
    best_step: int | None = None  # of the best validation so far
    best_score: float | None = None  # higher is better
    validations_without_gain: int = 0  # since the best one
    finished: str = ""  # why training is over; empty while it is not
    skipped_steps: int = 0  # of the steps, by a gradient scaler


class Resumable(Protocol):
    """What of a run a checkpoint holds, or has to know."""

    accelerator: Accelerator
    bare_model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    optimizer: Any  # as accelerate wraps it
    scheduler: Any
    state: TrainerState
    identity: dict[str, Any]  # what a run that goes on must share, see `check_identity`
    output_dir: Path


# --- saving --------------------------------------------------------------------------------------


def save_checkpoint(run: Resumable) -> Path:
    """Write the present step's checkpoint, by the main process for all, and return its folder.

    Raises:
        InputError: on every process: the disk is full, or cannot be written to.
    """
    accelerator = run.accelerator
    generators = gather_lists(accelerator, [random_state(accelerator.device)])
    final = run.output_dir / f"checkpoint-{run.state.step}"

    def write() -> None:
        with writing_aside(final) as aside:
            run.bare_model.save_pretrained(aside)
            run.tokenizer.save_pretrained(aside)
            tensors, groups = _optimizer_tensors(run.bare_model, run.optimizer.optimizer)
            save_file(tensors, aside / OPTIMIZER)
            for rank, generator in enumerate(generators):
                save_file(generator, aside / f"rng_state_{rank}.safetensors")
            scaler = accelerator.scaler
            values = {
                "state": dataclasses.asdict(run.state),
                "optimizer": groups,
                "scheduler": run.scheduler.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None,
                "identity": run.identity,
            }
            write_json(aside / STATE, values)
            share_files(aside)
            seal_checkpoint(aside)
            if final.exists():
                remove_checkpoint(final)
            aside.rename(final)
            flush_to_disk(run.output_dir)

    on_main_process(accelerator, write)
    return final


def _optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The moments as `NAME::KEY`, and the groups' settings with their parameters by name."""
    if not optimizer.state:  # before the first step, which the library would take itself
        return {}, []
    content: dict[str, Any] = state_dict.get_optimizer_state_dict(model, optimizer)
    tensors = {
        f"{name}::{key}": value.detach().cpu().contiguous()
        for name, values in content["state"].items()
        for key, value in values.items()
    }
    return tensors, content["param_groups"]


# --- loading -------------------------------------------------------------------------------------


def load_checkpoint(run: Resumable, folder: Path) -> None:
    """Put a run back to where a verified checkpoint left it; called on every process.

    Raises:
        InputError: the run differs in something that would break the continuation.
    """
    values, accelerator, model = read_json(folder / STATE), run.accelerator, run.bare_model
    check_identity(values["identity"], run.identity, folder)
    load_weights(model, folder)
    if saved := load_file(folder / OPTIMIZER):
        # A parameter that never had a gradient has none.
        moments: dict[str, dict[str, Tensor]] = {name: {} for name, _ in model.named_parameters()}
        for key, tensor in saved.items():
            name, _, part = key.rpartition("::")
            moments[name][part] = tensor
        content = {"state": moments, "param_groups": values["optimizer"]}
        state_dict.set_optimizer_state_dict(model, run.optimizer.optimizer, content)
    run.scheduler.load_state_dict(values["scheduler"])
    if accelerator.scaler is not None and values["scaler"] is not None:
        accelerator.scaler.load_state_dict(values["scaler"])
    path = folder / f"rng_state_{accelerator.process_index}.safetensors"
    set_random_state(load_file(path), accelerator.device)
    run.state = TrainerState(**values["state"])


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Replace a model's weights by those of a checkpoint of the same run."""
    load_model(model, folder / "model.safetensors", device=str(model.device))


def mean_weights(folders: list[Path]) -> dict[str, Tensor]:
    """Average the weights of checkpoints, in double precision, by name."""
    total: dict[str, Tensor] = {}
    for folder in folders:
        for name, tensor in load_file(folder / "model.safetensors").items():
            total[name] = total.get(name, 0) + tensor.double()
    return {name: (tensor / len(folders)).float() for name, tensor in total.items()}


def check_identity(saved: Mapping[str, Any], now: Mapping[str, Any], folder: Path) -> None:
    """Raise an `InputError` that names all in which this run is another than the checkpoint's.

    Both have a `world_size`, and the dicts `data_fingerprints` and `recipe`. A setting that the
    checkpoint does not know, since it is of an earlier version, may be off: 0, false or none.
    """
    differences = []
    if saved["world_size"] != now["world_size"]:
        differences.append(f"{saved['world_size']} processes then, {now['world_size']} now")
    for split, fingerprint in now["data_fingerprints"].items():
        if saved["data_fingerprints"].get(split) != fingerprint:
            differences.append(f"the {split} pairs are not the same")
    before, after = saved["recipe"], now["recipe"]
    for name in sorted(before.keys() | after.keys()):
        was, now_is = before.get(name), after.get(name)
        # What the version that saved did not know was off.
        if was != now_is and (name in before or now_is):
            differences.append(f"{name} was {was}, is {now_is}")
    if differences:
        raise InputError(
            f"cannot go on exactly from {folder}: {'; '.join(differences)}. Restore these, or "
            f"start a new run with --model_name_or_path {folder}"
        )


# --- random generators ---------------------------------------------------------------------------


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The state of every generator of this process, as tensors."""
    version, numbers, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002 (the global one)
    state = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *numbers], dtype=torch.int64),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.tensor([*map(int, keys), int(position), int(has_gauss)], dtype=torch.int64),
        "numpy_gauss": torch.tensor([cached], dtype=torch.float64),
    }
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: Mapping[str, Tensor], device: torch.device) -> None:
    """Put every generator of this process back to what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    version, *numbers = state["python"].tolist()
    gauss = state["python_gauss"].tolist()
    random.setstate((version, tuple(numbers), gauss[0] if gauss else None))
    *keys, position, has_gauss = state["numpy"].tolist()
    rest = (position, has_gauss, float(state["numpy_gauss"]))
    np.random.set_state(("MT19937", np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    if device.type in state:
        torch.get_device_module(device).set_rng_state(state[device.type])
