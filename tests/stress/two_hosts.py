"""Trains one model on two simulated hosts, as two machines would.

    python -m tests.stress.two_hosts

Each host is a network namespace of its own; a virtual cable is all that joins them. On both the
same command is given, accelerate's multi-node launch. What they trained must be what one process
trains in batches as large as both together, within the rounding of float32. Needs the rights to
make namespaces (root) and `ip` of iproute2; nothing leaves the two namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs" / "accelerate" / "multi_node_cpu.yaml"
SCRIPT = ROOT / "scripts" / "train.py"
HOSTS = ("bahdanau-a", "bahdanau-b")
CABLE = ("bahdanau0", "bahdanau1")
ADDRESSES = ("10.231.77.1", "10.231.77.2")
STEPS = 6
RECIPE = {
    "max_train_samples": 200,
    "max_eval_samples": 8,
    "tokenizer_kind": "word-char",
    "max_target_length": 24,
    "embedding_size": 8,
    "hidden_size": 12,
    "dropout": 0,
    "max_train_steps": STEPS,
    "logging_steps": 1,
    "skip_test": True,
}
TOLERANCE = 2e-5


def ip(*words: str) -> None:
    """Call `ip`."""
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def lay_cable() -> None:
    """Make the two hosts and join them."""
    for host in HOSTS:
        ip("netns", "add", host)
    ip("link", "add", CABLE[0], "netns", HOSTS[0], "type", "veth", "peer", CABLE[1])
    ip("link", "set", CABLE[1], "netns", HOSTS[1])
    for host, end, address in zip(HOSTS, CABLE, ADDRESSES, strict=True):
        ip("-n", host, "address", "add", f"{address}/30", "dev", end)
        ip("-n", host, "link", "set", end, "up")
        ip("-n", host, "link", "set", "lo", "up")


def bytes_received(host: str, end: str) -> int:
    """What has come over the cable."""
    path = f"/sys/class/net/{end}/statistics/rx_bytes"
    done = subprocess.run(
        ["ip", "netns", "exec", host, "cat", path], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def flags(folder: Path, batch_size: int) -> list[str]:
    """The arguments of the training."""
    values = {**RECIPE, "output_dir": folder, "per_device_train_batch_size": batch_size}
    return [f"--{name}={value}" for name, value in values.items()]


def train_on_both(folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Give the command on both hosts and wait for them."""
    launch = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    launch += ["--config_file", str(CONFIG), "--main_process_ip", ADDRESSES[0]]
    processes = []
    for rank, (host, end) in enumerate(zip(HOSTS, CABLE, strict=True)):
        command = ["ip", "netns", "exec", host, *launch, "--machine_rank", str(rank)]
        processes.append(
            subprocess.Popen(
                [*command, str(SCRIPT), *flags(folder, 16)],
                env={**os.environ, "GLOO_SOCKET_IFNAME": end, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    done = []
    for process in processes:
        out, error = process.communicate(timeout=900)
        done.append(subprocess.CompletedProcess(process.args, process.returncode, out, error))
    return done


def main() -> int:
    """Train on two hosts and on one; 1 if they differ."""
    folder = Path(tempfile.mkdtemp(prefix="bahdanau-hosts-"))
    try:
        lay_cable()
        for host, done in zip(HOSTS, train_on_both(folder / "two"), strict=True):
            if done.returncode != 0:
                print(f"{host}: status {done.returncode}\n{done.stderr[-3000:]}", file=sys.stderr)
                return 1
        received = [bytes_received(host, end) for host, end in zip(HOSTS, CABLE, strict=True)]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
        one = [sys.executable, str(SCRIPT), *flags(folder / "one", 32)]
        subprocess.run(one, env=environment, check=True, capture_output=True)
        name = f"checkpoint-{STEPS}/model.safetensors"
        expected, actual = (load_file(folder / run / name) for run in ("one", "two"))
        generators = len(list((folder / "two" / f"checkpoint-{STEPS}").glob("rng_state_*")))
    except subprocess.CalledProcessError as error:
        print(f"error: {(error.stderr or str(error)).strip()[-2000:]}", file=sys.stderr)
        return 1
    finally:
        for host in HOSTS:
            subprocess.run(["ip", "netns", "delete", host], check=False, capture_output=True)
        shutil.rmtree(folder)
    worst = max(float((actual[key] - expected[key]).abs().max()) for key in expected)
    moved = max(float(tensor.abs().max()) for tensor in expected.values())
    print(f"{generators} processes on 2 hosts, {STEPS} steps; over the cable came {received} bytes")
    print(f"largest difference to one process: {worst:.1e}, in weights of up to {moved:.1f}")
    is_same = torch.tensor(worst).isfinite().item() and worst <= TOLERANCE and generators == 2
    return 0 if is_same else 1


if __name__ == "__main__":
    sys.exit(main())
