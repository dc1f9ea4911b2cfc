"""Training in processes of its own: several at once, stopped from outside, in lower precision."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from safetensors.torch import load_file

from bahdanau_hf.checkpoints.run_folder import find_checkpoint, list_checkpoints
from bahdanau_hf.distributed import _promised_launch
from tests.helpers.places import PAIRS, ROOT
from tests.helpers.tiny_run import flags, logged, train_script

SCRIPT = ROOT / "scripts" / "train.py"
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}


CONFIGS = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
NODES = f"--config_file {ROOT}/configs/accelerate/multi_node_cpu.yaml --machine_rank 1"


@pytest.mark.parametrize(
    ("command", "torchrun"),
    [
        (
            "python accelerate launch --cpu --num_processes 2 train.py --seed 3",
            "--standalone --nproc_per_node=2",
        ),
        (
            "python accelerate launch --cpu --num-processes=3 train.py --num_processes 7",
            "--standalone --nproc_per_node=3",
        ),
        ("python accelerate launch --cpu train.py", ""),
        ("python train.py --num_processes 7", ""),
        ("bash", ""),
        (
            f"accelerate launch --config_file {ROOT}/configs/accelerate/cpu.yaml train.py",
            "--standalone --nproc_per_node=2",
        ),
        (
            f"accelerate launch {NODES} --main_process_ip 10.1.0.1 --num_processes 4 train.py",
            "--nnodes=2 --nproc_per_node=2 --node_rank=1 --master_addr=10.1.0.1 "
            "--master_port=29500",
        ),
    ],
)
def test_how_many_processes_were_promised(command: str, torchrun: str) -> None:
    assert _promised_launch(command.split()) == torchrun.split()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configurations_are_understood_by_accelerate(path: Path) -> None:
    config = load_config_from_file(str(path))  # refuses keys that it does not know
    launch = launch_command_parser().parse_args(["--config_file", str(path), "train.py"])
    launch, *_ = _validate_launch_command(launch)
    assert launch.num_processes == config.num_processes
    assert launch.num_processes % (launch.num_machines or 1) == 0
    kinds = {
        "cpu": "MULTI_CPU",
        "multi_node_cpu": "MULTI_CPU",
        "single_gpu": "NO",
        "multi_gpu": "MULTI_GPU",
        "multi_node": "MULTI_GPU",
        "fsdp": "FSDP",
    }
    assert config.distributed_type.value == kinds[path.stem]
    assert (launch.num_machines or 1) == (2 if "node" in path.stem else 1)
    assert launch.mixed_precision == ("no" if "cpu" in path.stem else "bf16")
    assert bool(launch.use_fsdp) == (path.stem == "fsdp")
    assert path.name in path.read_text(encoding="utf-8").partition("compute")[0]  # its command


def launch(
    *command: object, variables: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        env={**ENVIRONMENT, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
def test_two_processes_are_one_in_a_larger_batch(tmp_path: Path) -> None:
    """Each step is the whole training split: divided over two processes, or not."""
    same = {
        **{"dropout": 0, "attention_dropout": 0, "max_grad_norm": 0},
        **{"max_train_steps": 3, "eval_steps": 2, "save_steps": 1},
    }
    assert train_script(tmp_path / "one", **same, per_device_train_batch_size=64) == 0
    two = flags(tmp_path / "two", **same, per_device_train_batch_size=32)
    command = ["-m", "accelerate.commands.accelerate_cli", "launch"]
    done = launch(*command, "--cpu", "--num_processes", 2, SCRIPT, *two)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Model, scores and report") == 1
    assert (tmp_path / "two" / "checkpoint-3" / "rng_state_1.safetensors").is_file()
    for line, other in zip(logged(tmp_path / "one"), logged(tmp_path / "two"), strict=True):
        assert line.keys() == other.keys()
        for name, value in line.items():
            assert other[name] == pytest.approx(value, rel=2e-4), name
    expected = load_file(tmp_path / "one" / "checkpoint-3" / "model.safetensors")
    actual = load_file(tmp_path / "two" / "checkpoint-3" / "model.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert_same_gradients(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "accumulated"),
    [
        ("torch.distributed.run --standalone --nproc_per_node=2", 1),
        (
            "accelerate.commands.accelerate_cli launch --num_processes 2 "
            "--gradient_accumulation_steps 2 --dynamo_backend no --mixed_precision no",
            2,
        ),
    ],
)
def test_several_processes_without_a_gpu_are_one_run(
    tmp_path: Path, command: str, accumulated: int
) -> None:
    """Though nobody says that it is for processors."""
    arguments = flags(tmp_path / "run", max_train_steps=2)
    unsaid = {"ACCELERATE_USE_CPU": "false", "CUDA_VISIBLE_DEVICES": ""}
    done = launch("-m", *command.split(), SCRIPT, *arguments, variables=unsaid)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Model, scores and report") == 1
    state = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())
    assert state["identity"]["world_size"] == 2
    assert state["identity"]["recipe"]["gradient_accumulation_steps"] == accumulated
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert settings["train"]["gradient_accumulation_steps"] == accumulated


def assert_same_gradients(one: Path, several: Path) -> None:
    """After one step AdamW's first moment is a tenth of the gradient, where none is clipped."""
    paths = [run / "checkpoint-1" / "optimizer.safetensors" for run in (one, several)]
    expected, actual = map(load_file, paths)
    names = [name for name in expected if name.endswith("::exp_avg")]
    assert names
    for name in names:
        assert expected[name].any(), name
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(
            actual[name], expected[name], rtol=1e-4, atol=1e-5 * largest, msg=name
        )


@pytest.mark.slow
@pytest.mark.parametrize("stream", [{}, {"streaming": True, "shuffle_buffer_size": 16}])
def test_two_processes_resume_exactly_and_not_as_one(
    tmp_path: Path, stream: dict[str, Any]
) -> None:
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", SCRIPT]
    short = {"lr_scheduler_type": "constant", "eval_steps": 2, **stream}
    if stream:
        short |= {"validation_file": PAIRS, "max_eval_samples": 12}
    for folder, steps, resume in (("a", 4, None), ("b", 2, None), ("b", 4, "latest")):
        changes = {**short, "max_train_steps": steps, "resume_from_checkpoint": resume}
        done = launch(*torchrun, *flags(tmp_path / folder, **changes))
        assert done.returncode == 0, done.stderr
    for name in ("model", "optimizer", "rng_state_0", "rng_state_1"):
        expected = load_file(tmp_path / "a" / "checkpoint-4" / f"{name}.safetensors")
        actual = load_file(tmp_path / "b" / "checkpoint-4" / f"{name}.safetensors")
        assert all(torch.equal(actual[key], tensor) for key, tensor in expected.items()), name
    first, second = (
        load_file(tmp_path / "a" / "checkpoint-4" / f"rng_state_{rank}.safetensors")["torch"]
        for rank in (0, 1)
    )
    assert not torch.equal(first, second)
    changes = {**short, "max_train_steps": 6, "resume_from_checkpoint": "latest"}
    done = launch(SCRIPT, *flags(tmp_path / "b", **changes))
    assert done.returncode == 2
    assert "2 processes then, 1 now" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_saves_and_the_run_goes_on(tmp_path: Path, signum: int, status: int) -> None:
    folder = tmp_path / "run"
    arguments = flags(folder, max_train_steps=100_000, eval_steps=100_000)
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signum)
    _, error = process.communicate(timeout=60)
    assert process.returncode == status
    assert "--resume_from_checkpoint latest" in error
    step = max(line["step"] for line in logged(folder))
    changes = {"max_train_steps": step + 2, "resume_from_checkpoint": "latest", "eval_steps": 9**9}
    done = launch(SCRIPT, *flags(folder, **changes))
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in logged(folder) if "loss" in line] == [*range(1, step + 3)]


@pytest.mark.slow
def test_mixed_precision(tmp_path: Path) -> None:
    command = ["-m", "accelerate.commands.accelerate_cli", "launch", "--cpu"]
    arguments = flags(tmp_path / "run", max_train_steps=2)
    done = launch(*command, "--mixed_precision", "bf16", SCRIPT, *arguments)
    assert done.returncode == 0, done.stderr
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def of_rank(launcher: int, rank: int) -> psutil.Process:
    """A process of a launched run."""
    for process in psutil.Process(launcher).children(recursive=True):
        if process.environ().get("RANK") == str(rank):
            return process
    raise AssertionError(f"there is no process {rank}")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_others_with_a_message(tmp_path: Path, victim: int) -> None:
    folder = tmp_path / "run"
    arguments = flags(folder, max_train_steps=100_000, eval_steps=100_000, save_steps=5)
    launch = ["-m", "accelerate.commands.accelerate_cli", "launch", "--cpu", "--num_processes", "2"]
    process = subprocess.Popen(
        [sys.executable, *launch, str(SCRIPT), *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not list_checkpoints(folder) and time.monotonic() < deadline:
        time.sleep(0.1)
    of_rank(process.pid, victim).kill()
    _, error = process.communicate(timeout=120)  # it does not hang
    assert process.returncode != 0
    assert f"error: process {1 - victim} cannot reach another process of this run" in error
    assert "--resume_from_checkpoint latest" in error
    assert find_checkpoint(folder, "latest").is_dir()


@pytest.mark.slow
def test_two_hosts_train_one_model() -> None:
    try:
        subprocess.run(["unshare", "--net", "ip", "link"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("namespaces are not permitted here, or there is no ip")
    done = launch("-m", "tests.stress.two_hosts")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("2 processes on 2 hosts, 6 steps")


@pytest.mark.slow
def test_killed_at_any_moment(tmp_path: Path) -> None:
    done = launch("-m", "tests.stress.kill", "--kills", 4)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 kills" in done.stdout


@pytest.mark.slow
def test_three_processes_and_pairs_that_do_not_divide(tmp_path: Path) -> None:
    """53 pairs: twice three batches of 8, then 5 pairs over three processes; the next pass."""
    same = {
        **{"dropout": 0, "attention_dropout": 0, "max_grad_norm": 0, "validation_file": PAIRS},
        **{"max_train_samples": 53, "max_train_steps": 5, "eval_steps": 3, "save_steps": 1},
        "save_total_limit": 9,
    }
    assert train_script(tmp_path / "one", **same, per_device_train_batch_size=24) == 0
    three = flags(tmp_path / "three", **same, per_device_train_batch_size=8)
    command = ["-m", "accelerate.commands.accelerate_cli", "launch"]
    done = launch(*command, "--cpu", "--num_processes", 3, SCRIPT, *three)
    assert done.returncode == 0, done.stderr
    for line, other in zip(logged(tmp_path / "one"), logged(tmp_path / "three"), strict=True):
        for name, value in line.items():
            # The loss of validation: 64 sentences do not divide by 3, and each counts once.
            assert other[name] == pytest.approx(value, rel=2e-4), name
    expected = load_file(tmp_path / "one" / "checkpoint-5" / "model.safetensors")
    actual = load_file(tmp_path / "three" / "checkpoint-5" / "model.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
    assert_same_gradients(tmp_path / "one", tmp_path / "three")


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_each_pair_once_a_pass_and_one_process_writes(tmp_path: Path, processes: int) -> None:
    folder, watch = tmp_path / "run", tmp_path / "watch"
    watch.mkdir()
    changes = {"validation_file": PAIRS, "max_train_samples": 53, "num_train_epochs": 2}
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    done = launch(
        *torchrun,
        *("-m", "tests.helpers.watched_train"),
        *flags(folder, **changes, max_train_steps=None, save_steps=1),
        variables={"WATCH": str(watch)},
    )
    assert done.returncode == 0, done.stderr
    seen = [json.loads((watch / f"{rank}.json").read_text()) for rank in range(processes)]
    assert all(len(process["pairs"]) > 2 * 53 // processes - 9 for process in seen)
    for epoch in range(2):
        pairs = [
            tuple(tuple(token for token in ids if token > 0) for ids in texts)
            for process in seen
            for number, *texts in process["pairs"]
            if number == epoch
        ]
        assert len(pairs) == len(set(pairs)) == 53
    written = {Path(name).name for name in seen[0]["writes"]}
    assert {"metrics.jsonl", "model.safetensors", "optimizer.safetensors"} <= written
    for process in seen[1:]:
        assert process["writes"] == []
