"""`scripts/train.py` under watch: what each process learns from, and what it writes.

    torchrun --nproc_per_node 2 -m tests.helpers.watched_train --output_dir run ...

Every process leaves `RANK.json` in the folder that WATCH names: `pairs`, the epoch and the ids of
each pair of each step, and `writes`, the names below the output folder that it opened for writing,
made, renamed or removed.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import safetensors.torch

from bahdanau_hf import train
from bahdanau_hf.training import loop as training

WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate", "os.link")
pairs: list[tuple[int, list[int], list[int]]] = []
writes: list[str] = []
folder = next(arg.partition("=")[2] for arg in sys.argv if arg.startswith("--output_dir="))


def note(path: Any) -> None:
    if isinstance(path, str | os.PathLike) and str(path).startswith(folder):
        writes.append(str(path)[len(folder) :])


def audit(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in WATCHED:
        return
    is_reading = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if not is_reading:
        note(arguments[0])


serialize_file, take_step = safetensors.torch.serialize_file, training.take_step


def serialize(content: Any, path: Any, *rest: Any, **options: Any) -> Any:
    """Its file is opened by Rust, where no audit sees it."""
    note(path)
    return serialize_file(content, path, *rest, **options)


def step(run: Any, batches: list[dict[str, Any]], *rest: Any) -> Any:
    for batch in batches:
        rows = zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True)
        pairs.extend((run.state.epoch, *row) for row in rows)
    return take_step(run, batches, *rest)


if __name__ == "__main__":
    safetensors.torch.serialize_file = serialize
    training.take_step = step
    sys.addaudithook(audit)
    status = train.main(sys.argv[1:])
    found = {"pairs": pairs, "writes": writes}
    rank = os.environ["RANK"]
    Path(os.environ["WATCH"], f"{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    raise SystemExit(status)
