"""Kills a training run with SIGKILL again and again, and sees that nothing was lost.

    python -m tests.stress.kill --kills 50

A tiny run that saves every step is trained once undisturbed. Then it is trained again, killed at a
random moment (every other time while a checkpoint or the release is being written), examined,
resumed, killed, and so on; where it comes to its end in between, it must be the undisturbed run to
the bit, and it begins anew. Ends with status 1 if a checkpoint of a final name was not whole, a
file of a final name could not be read, or a finished run differed.

A run is a process of its own, forked from one that has imported the libraries: starting Python
and importing them would take most of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from bahdanau_hf.checkpoints.run_folder import list_checkpoints, verify_checkpoint
from bahdanau_hf.errors import InputError
from bahdanau_hf.train import main as train

ROOT = Path(__file__).parents[2]
STEPS = 60
CLOCKS = {"seconds", "logged_seconds", "tokens_per_second"}
RECIPE = {
    "max_train_samples": 120,
    "max_eval_samples": 6,
    "tokenizer_kind": "word-char",
    "min_frequency": 1,
    "max_source_length": 24,
    "max_target_length": 24,
    "embedding_size": 8,
    "hidden_size": 12,
    "embedding_dropout": 0.2,
    "per_device_train_batch_size": 8,
    "max_train_steps": STEPS,
    "logging_steps": 1,
    "save_steps": 1,
    "save_total_limit": 2,
    "eval_steps": 20,
    "metric_for_best_model": "loss",
    "skip_test": True,
    "seed": 5,
}


def start(main: Callable[[list[str]], int], folder: Path, log: Path) -> int:
    """Train in a process of its own, from the newest checkpoint if there is one; its number."""
    resumes = bool(list_checkpoints(folder))
    flags = [f"--{name}={value}" for name, value in RECIPE.items()]
    flags += ["--resume_from_checkpoint=latest"] if resumes else ["--overwrite_output_dir"]
    child = os.fork()
    if child:
        return child
    status = 99
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        status = main([f"--output_dir={folder}", *flags])
    finally:
        os._exit(status)


def wait(child: int) -> int:
    """The exit status of a process; below 0: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def is_writing(folder: Path) -> bool:
    """Whether something large is being written."""
    kinds = (".checkpoint-*.unfinished-*", ".release.unfinished-*", ".removed-checkpoint-*")
    return any(next(folder.glob(kind), None) for kind in kinds)


def kill_sometime(child: int, folder: Path, lasts: float, aims: bool) -> str | None:
    """Kill a run; returns when, or `None` if it has come to its end before.

    Args:
        child: the run.
        folder: where it writes.
        lasts: seconds that an undisturbed run takes.
        aims: wait for the next time that it writes after a random moment.
    """
    done = max(list_checkpoints(folder), default=0) / STEPS
    deadline = time.monotonic() + random.uniform(0, lasts * max(0.2, 1 - done))
    while True:
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            return None
        is_due = time.monotonic() >= deadline
        if is_due and (not aims or is_writing(folder)):
            break
        time.sleep(0.0005)
    if aims:
        time.sleep(random.uniform(0, 0.03))
    os.kill(child, signal.SIGKILL)
    return "while it wrote" if is_writing(folder) else "at another moment"


def faults(folder: Path) -> list[str]:
    """What is not whole under a final name."""
    found = []
    for checkpoint in list_checkpoints(folder).values():
        try:
            verify_checkpoint(checkpoint)
            load_file(checkpoint / "model.safetensors")
        except (InputError, OSError, ValueError) as error:
            found.append(str(error))
    for path in folder.iterdir():
        try:
            if path.suffix == ".json" and not path.name.startswith("."):
                json.loads(path.read_text(encoding="utf-8"))
            elif path.suffix == ".safetensors":
                load_file(path)
        except Exception as error:  # whatever it is: it cannot be read
            found.append(f"{path.name}: {error}")
    return found


def content(folder: Path) -> dict[str, Any]:
    """All that a finished run is, without what the clock says."""
    last = folder / f"checkpoint-{STEPS}"
    state = json.loads((last / "trainer_state.json").read_text(encoding="utf-8"))
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    tensors = {
        f"{path.parent.name} {path.name} {name}": tensor
        for path in [*last.glob("*.safetensors"), folder / "model.safetensors"]
        for name, tensor in load_file(path).items()
    }
    return {
        "tensors": {key.replace(folder.name, "run"): value for key, value in tensors.items()},
        "state": _timeless(state),
        "log": [_timeless(json.loads(line)) for line in lines],
    }


def _timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v) for k, v in value.items() if k not in CLOCKS}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """In what two finished runs differ."""
    a, b = one["tensors"], other["tensors"]
    found = [name for name in a.keys() | b.keys() if name not in a or name not in b]
    found += [name for name in a.keys() & b.keys() if not torch.equal(a[name], b[name])]
    return found + [name for name in ("state", "log") if one[name] != other[name]]


def main() -> int:
    """Kill as often as asked; 1 if something was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="bahdanau-kill-"))
    log, whole, parts = folder / "log.txt", folder / "whole", folder / "parts"
    try:
        return kill_again_and_again(train, whole, parts, log, arguments.kills)
    finally:
        shutil.rmtree(folder)


def kill_again_and_again(
    train: Callable[[list[str]], int], whole: Path, parts: Path, log: Path, kills: int
) -> int:
    """The test itself."""
    began = time.monotonic()
    if wait(start(train, whole, log)) != 0:
        print(log.read_text(encoding="utf-8")[-2000:], file=sys.stderr)
        return 1
    lasts = time.monotonic() - began
    expected = content(whole)
    moments: Counter[str] = Counter()
    left_behind = num_checkpoints = num_finished = 0
    broken: list[str] = []
    while moments.total() < kills or num_finished == 0 or parts.exists():
        child = start(train, parts, log)
        moment = None
        if moments.total() < kills:
            moment = kill_sometime(child, parts, lasts, aims=moments.total() % 2 == 1)
        status = wait(child)
        if status == -signal.SIGKILL and moment is not None:
            moments[moment] += 1
            if parts.is_dir():
                left_behind += is_writing(parts)
                num_checkpoints += len(list_checkpoints(parts))
                broken += faults(parts)
            continue
        if status != 0:
            broken.append(f"a run ended with status {status}: {_last_line(log)}")
            break
        num_finished += 1
        broken += differences(expected, content(parts))
        shutil.rmtree(parts)
    print(f"{moments.total()} kills: " + ", ".join(f"{n} {when}" for when, n in moments.items()))
    print(f"{num_checkpoints} checkpoints examined after them, {left_behind} writings cut off")
    print(f"{num_finished} runs finished and compared with the undisturbed one")
    print("\n".join(broken) if broken else "nothing lost: all whole, all equal to the bit")
    return 1 if broken else 0


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else ""


if __name__ == "__main__":
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "ACCELERATE_USE_CPU": "true"}
    torch.set_num_threads(1)
    sys.exit(main())
