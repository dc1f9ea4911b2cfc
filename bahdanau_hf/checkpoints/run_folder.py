"""The folder of a run: what may be written there, and which checkpoints in it are whole.

A checkpoint is written under another name, flushed to the disk and then renamed: a folder called
`checkpoint-STEP` is whole, and its manifest (size and SHA-256 of every file) proves it.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from .. import files
from ..errors import InputError
from ..files import flush_to_disk, is_plain_name, read_json, sha256_of, unfinished

logger = logging.getLogger(__name__)

# As those of `files`; what a run cannot write it can write later.
_ADVICE = "Put that right and go on with --resume_from_checkpoint latest"
writing = partial(files.writing, advice=_ADVICE)
write_whole = partial(files.write_whole, advice=_ADVICE)
write_json = partial(files.write_json, advice=_ADVICE)

MANIFEST = "manifest.json"
METRICS = "metrics.jsonl"
FORMAT = 1
_FOLDER = re.compile(r"checkpoint-(\d+)")
# What is being written or removed; only a run that was killed leaves it behind.
_LEFT_BEHIND = re.compile(r"\..+\.unfinished-\d+|\.removed-checkpoint-\d+")
# What a run writes besides checkpoints and code; all that --overwrite_output_dir removes.
RUN_FILES = frozenset(
    {
        *("settings.json", METRICS, "eval_results.json", "test_predictions.tsv"),
        *("alignments.json", "alignment.svg", "alignment.png", "report.html", "README.md"),
        *("model.safetensors", "config.json", "generation_config.json", "notebook.ipynb"),
        *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    }
)
# Those that it writes before its first checkpoint, with the folder of a tracker.
FIRST_RECORDS = {"settings.json", METRICS, "alignments.json", "report.html", "bahdanau_hf"}


def prepare_output_dir(output_dir: Path, *, overwrite: bool, resume: bool) -> None:
    """Make a run's folder, and with `overwrite` remove the run that it holds.

    Raises:
        InputError: it cannot be written to, or holds files and the run does neither.
    """
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        probe = unfinished(output_dir / "probe")
        probe.write_bytes(b"")
        probe.unlink()
        for path in output_dir.iterdir():
            if _LEFT_BEHIND.fullmatch(path.name):
                remove(path)
        found = sorted(path.name for path in output_dir.iterdir())
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"cannot write to --output_dir {output_dir}: {reason}") from None
    if not found or resume:
        return
    if not overwrite:
        raise InputError(
            f"--output_dir {output_dir} is not empty (it holds {found[0]}): name another, or add "
            "--resume_from_checkpoint latest to go on, or --overwrite_output_dir to start afresh"
        )
    for path in output_dir.iterdir():
        if path.is_dir() and re.fullmatch(_FOLDER.pattern + r"(\..*)?", path.name):
            shutil.rmtree(path)
        elif path.is_file() and (path.name in RUN_FILES or path.name.endswith("_bahdanau.py")):
            path.unlink()


def begins_anew(output_dir: Path) -> bool:
    """Whether a run has no checkpoint to go on from; what it left before its first is removed."""
    paths = [path for path in output_dir.glob("*") if not _LEFT_BEHIND.fullmatch(path.name)]
    if not {path.name for path in paths} <= FIRST_RECORDS:
        return False
    for path in paths:
        remove(path)
    return True


def check_room(output_dir: Path, model_bytes: int) -> None:
    """Raise an `InputError` if the disk has no room for a checkpoint, with moments, and a model."""
    free, needed = shutil.disk_usage(output_dir).free, 4 * model_bytes
    if free < needed:
        raise InputError(
            f"a checkpoint and the model need {needed / 1e6:,.1f} MB in {output_dir}, where "
            f"{free / 1e6:,.1f} MB are free: make room, or name another --output_dir"
        )


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def list_checkpoints(output_dir: Path) -> dict[int, Path]:
    """The checkpoints of a run by step, oldest first."""
    paths = output_dir.iterdir() if output_dir.is_dir() else ()
    matches = ((_FOLDER.fullmatch(path.name), path) for path in paths)
    return dict(sorted((int(match[1]), path) for match, path in matches if match))


def find_checkpoint(output_dir: Path, wanted: str) -> Path:
    """Find and verify the checkpoint to go on from: a folder, or `latest`, the newest whole one.

    Raises:
        InputError: there is none, or the one named is not whole.
    """
    if wanted != "latest":
        verify_checkpoint(Path(wanted))
        return Path(wanted)
    complaint = f"there is no checkpoint in {output_dir} to resume from"
    for path in reversed(list_checkpoints(output_dir).values()):
        try:
            verify_checkpoint(path)
            return path
        except InputError as error:
            logger.warning("%s. Trying the one before it.", error)
            complaint = f"no checkpoint in {output_dir} is whole"
    raise InputError(f"{complaint}: start the run without --resume_from_checkpoint")


def verify_checkpoint(folder: Path, only: str | None = None) -> None:
    """Raise an `InputError` unless all files, or the one named, are as the manifest says."""
    if not folder.is_dir():
        raise InputError(f"there is no checkpoint {folder}")
    try:
        manifest = read_json(folder / MANIFEST)
        sums = {name: entry["sha256"] for name, entry in manifest["files"].items()}
        version = manifest["format"]
    except (InputError, TypeError, KeyError, AttributeError):
        raise InputError(
            f"{folder} is no checkpoint of a run (its {MANIFEST} is missing or unreadable); to "
            "train on from a model alone use --model_name_or_path"
        ) from None
    if version != FORMAT:
        raise InputError(f"{folder} has the format {version}, this version reads {FORMAT}")
    for name in sums if only is None else {only} & sums.keys():
        if not is_plain_name(name):
            raise InputError(f"{folder}/{MANIFEST} names {name!r:.60}, no file of this folder")
        try:
            sha256 = sha256_of(folder / name)
        except OSError:
            raise InputError(f"the checkpoint {folder} is damaged: {name} is missing") from None
        if sha256 != sums[name]:
            raise InputError(f"the checkpoint {folder} is damaged: {name} is not as it was written")


def set_aside_later(output_dir: Path, step: int) -> None:
    """Rename checkpoints after `step`: a run that goes on from there takes another path."""
    for later, path in list_checkpoints(output_dir).items():
        if later > step:
            aside = path.with_name(f"{path.name}.abandoned")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)
            logger.warning("Resuming before step %d: its checkpoint is now %s", later, aside.name)


def remove_checkpoints(output_dir: Path, limit: int, keep: Iterable[int | None]) -> None:
    """Remove all but the newest `limit` checkpoints and those of the steps to `keep`."""
    paths = list_checkpoints(output_dir)
    for step in list(paths)[:-limit]:
        if step not in keep:
            remove_checkpoint(paths[step])


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint; renamed first, as what is half removed must not pass for a whole one."""
    doomed = folder.with_name(f".removed-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)


def seal_checkpoint(folder: Path) -> None:
    """Write the manifest and flush everything to the disk; a thread flushes, another sums up."""
    paths = sorted(folder.iterdir())
    with ThreadPoolExecutor(max_workers=1) as thread:
        flushed = thread.map(flush_to_disk, paths)
        sums = {p.name: {"sha256": sha256_of(p), "bytes": p.stat().st_size} for p in paths}
        list(flushed)  # what could not be is raised
    files.write_json(folder / MANIFEST, {"format": FORMAT, "files": sums})
    for path in (folder / MANIFEST, folder):
        flush_to_disk(path)


@contextmanager
def writing_aside(path: Path) -> Iterator[Path]:
    """Name a folder to fill in the place of `path`, as `writing`; what is left of it is removed."""
    aside = unfinished(path)
    with writing(path):
        try:
            yield aside
        finally:  # what could not be finished would only fill the disk
            shutil.rmtree(aside, ignore_errors=True)


def share_files(folder: Path) -> None:
    """Let weights be read by whom the configuration may be; safetensors keeps them private."""
    mode = (folder / "config.json").stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


# --- the run's records ---------------------------------------------------------------------------


def move_files(source: Path, target: Path) -> None:
    """Move every file of a folder into another, each whole, and remove the folder."""
    for path in source.iterdir():
        flush_to_disk(path)
        path.replace(target / path.name)
    source.rmdir()


def log_metrics(output_dir: Path, values: dict[str, Any]) -> None:
    """Append a line to `metrics.jsonl`."""
    path = output_dir / METRICS
    with writing(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(values) + "\n")


def cut_metrics(output_dir: Path, step: int) -> None:
    """Forget the lines of `metrics.jsonl` after `step`, which will be taken anew."""
    path = output_dir / METRICS
    if path.is_file():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        write_whole(path, "".join(line for line in lines if _step_of(line) <= step))


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # cut off in the middle by a crash
