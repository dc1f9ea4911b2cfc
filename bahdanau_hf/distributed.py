"""What the processes of a run tell each other; with one process, the plain thing itself."""

from __future__ import annotations

import itertools
import os
import re
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]
import torch
from accelerate import Accelerator, PartialState
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

from .errors import InputError

T = TypeVar("T")
_LAUNCH_NUMBERS = (
    *("WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"),
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS",
)
_LOST = re.compile(r"gloo|NCCL|[Cc]onnection (was )?(closed|reset|refused)|Broken pipe")


def on_main_process(accelerator: Accelerator | PartialState, function: Callable[[], T]) -> T:
    """Let the main process alone do something, and give its result, which must pickle, to all.

    Raises:
        InputError: on every process, if the main process met one. Any other error is raised where
            it happens, and by its text, as a `RuntimeError`, elsewhere: nobody waits for ever.
    """
    outcome: list[Any] = [None, None]  # the result, or whether an input error and its text
    failure: BaseException | None = None
    if accelerator.is_main_process:
        try:
            outcome[0] = function()
        except Exception as error:
            failure = error
            outcome[1] = (isinstance(error, InputError), str(error))
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if failure is not None:
        raise failure
    if outcome[1] is not None:
        is_input_error, message = outcome[1]
        raise InputError(message) if is_input_error else RuntimeError(f"main process: {message}")
    return outcome[0]


def gather_lists(accelerator: Accelerator | PartialState, items: list[T]) -> list[T]:
    """Join every process's list, in the order of the processes, on all of them."""
    return items if accelerator.num_processes == 1 else list(gather_object(items))


def sum_over_processes(
    accelerator: Accelerator, values: Sequence[float | torch.Tensor]
) -> list[float]:
    """Add each number over all processes, in double precision; the same on all of them.

    A tensor stands for all its numbers, and a device is waited for once a tensor.
    """
    if accelerator.num_processes == 1:
        lists = (x.flatten().tolist() if torch.is_tensor(x) else [float(x)] for x in values)
        return list(itertools.chain.from_iterable(lists))
    # MPS has no double precision.
    dtype = torch.float32 if accelerator.device.type == "mps" else torch.float64
    # Numbers of the host go over together: each by itself would be waited for.
    host = [0.0 if torch.is_tensor(value) else float(value) for value in values]
    numbers = list(
        torch.tensor(host, dtype=dtype).to(accelerator.device, non_blocking=True).split(1)
    )
    for place, value in enumerate(values):
        if torch.is_tensor(value):
            numbers[place] = value.to(accelerator.device, dtype).flatten()
    return accelerator.reduce(torch.cat(numbers), reduction="sum").tolist()


class ProcessLost(RuntimeError):
    """Another process of the run has ended, so that nothing can be exchanged any more."""


@contextmanager
def losses_are_told(accelerator: Accelerator) -> Iterator[None]:
    """Turn the failure of an exchange into a `ProcessLost`, and say at once how to go on.

    Whoever started the processes ends those that are left, so there is no time to lose.
    """
    try:
        yield
    except RuntimeError as error:
        if accelerator.num_processes == 1 or not _LOST.search(str(error)):
            raise
        message = (
            f"error: process {accelerator.process_index} cannot reach another process of this "
            "run, which has ended. See above or in its own log why; go on with "
            "--resume_from_checkpoint latest"
        )
        print(message, file=sys.stderr, flush=True)  # noqa: T201
        raise ProcessLost(message) from None


def settle_processes() -> None:
    """Wait a moment between the last exchange of several processes and the end of their group.

    Gloo's thread needs Python's lock to let go of the last exchange, and a group that is taken down
    meanwhile waits for that thread with the lock in its hand, for ever (torch 2.13).
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        time.sleep(1)


def check_launch_variables() -> None:
    """Refuse numbers of a launch that are none.

    Raises:
        InputError: names the variable and what it holds.
    """
    for name in _LAUNCH_NUMBERS:
        value = os.environ.get(name, "0")
        if not re.fullmatch(r"-?\d+", value):  # a local rank of -1 means one process
            raise InputError(
                f"the environment variable {name} is {value!r}, which is no number: unset it, or "
                "start the run with accelerate launch or torchrun, which set it"
            )


def work_on_processors_without_gpus() -> None:
    """Let several processes share the work without GPUs too, which accelerate does only if told.

    Raises:
        InputError: more processes on this machine than GPUs.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or parse_flag_from_env("ACCELERATE_USE_CPU"):
        return
    here, gpus = int(os.environ.get("LOCAL_WORLD_SIZE", "1")), _count_gpus()
    if gpus == 0:
        os.environ["ACCELERATE_USE_CPU"] = "true"
    elif here > gpus:
        raise InputError(
            f"{here} processes for {gpus} GPU{'s' * (gpus > 1)}: start one for each, or set "
            "ACCELERATE_USE_CPU=true to train on the processor"
        )


def _count_gpus() -> int:
    device = torch.accelerator.current_accelerator(check_available=True)
    return 0 if device is None or device.type == "mps" else torch.accelerator.device_count()


def keep_launch_promises(program: Sequence[str]) -> None:
    """Do what `accelerate launch` was asked for and leaves undone in silence (accelerate 1.15).

    - `--gradient_accumulation_steps` reaches a program only with DeepSpeed: it is put into the
      environment.
    - `--num_processes N` starts one process where there is neither GPU nor MPI: the present one is
      replaced by `torchrun`.

    Args:
        program: what to run, as Python's own command line takes it.
    """
    try:
        command = psutil.Process(os.getppid()).cmdline()
    except psutil.Error:
        return
    launch = _launch_told(command)
    if launch is not None and launch.gradient_accumulation_steps:
        steps = str(launch.gradient_accumulation_steps)
        os.environ.setdefault("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", steps)
    on_cpu = os.environ.get("ACCELERATE_USE_CPU") == "True" or _count_gpus() == 0
    is_started = {"WORLD_SIZE", "PMI_SIZE"} & os.environ.keys()
    if not on_cpu or "MASTER_ADDR" not in os.environ or is_started:
        return
    if torchrun := _promised_launch(command):
        run = [sys.executable, "-m", "torch.distributed.run", *torchrun, *program]
        os.execv(sys.executable, run)


def _launch_told(command: Sequence[str]) -> Namespace | None:
    """What the command line of an `accelerate launch` says; of any other, nothing."""
    for i, word in enumerate(command[:4]):
        is_launch = word == "launch" and "accelerate" in command[i - 1]
        if is_launch or Path(word).name in ("accelerate-launch", "accelerate.commands.launch"):
            return launch_command_parser().parse_args(list(command[i + 1 :]))
    return None


def _promised_launch(command: Sequence[str]) -> list[str]:
    """How `torchrun` starts what a launch was asked for; nothing, if that is one process.

    A configuration file speaks where the launch's own command line is silent.
    """
    launch = _launch_told(command)
    if launch is None or launch.mpirun_hostfile:
        return []
    reads_file = launch.config_file or (launch.num_processes is None and not launch.cpu)
    file = vars(load_config_from_file(launch.config_file)) if reads_file else {}

    def told(name: str, otherwise: int | str) -> Any:
        value = getattr(launch, name)
        return file.get(name) or otherwise if value is None else value

    processes, machines = int(told("num_processes", 1)), int(told("num_machines", 1))
    if processes <= 1:
        return []
    if machines <= 1:
        return ["--standalone", f"--nproc_per_node={processes}"]
    return [
        f"--nnodes={machines}",
        f"--nproc_per_node={processes // machines}",
        f"--node_rank={told('machine_rank', 0)}",
        f"--master_addr={told('main_process_ip', '127.0.0.1')}",
        f"--master_port={told('main_process_port', 29500)}",
    ]
