"""`bahdanau-hf env`: it tells what a bug report needs, and nothing that is private."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from bahdanau_hf import __version__, cli
from bahdanau_hf.cli import env as env_command
from bahdanau_hf.modeling.processor_bahdanau import Processor
from tests.helpers.places import ROOT
from tests.helpers.pretences import pretending
from tests.helpers.tiny_checkpoint import make_checkpoint

PRIVATE = "k1ng-of-sp4des"


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment without what would be told of it."""
    for name in os.environ:
        if env_command._SETTINGS.fullmatch(name):
            monkeypatch.delenv(name)
    return monkeypatch


def told(capsysbinary: pytest.CaptureFixture[bytes], *flags: str) -> dict[str, str]:
    """What the command prints as text, by name."""
    assert cli.main(["env", *flags]) == 0
    lines = capsysbinary.readouterr().out.decode().splitlines()
    pairs = [line.split(": ", 1) for line in lines]
    assert all(len(pair) == 2 for pair in pairs), lines
    facts = dict(pairs)
    assert len(facts) == len(lines)
    return facts


def test_versions_are_those_that_run(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    facts = told(capsysbinary)
    assert facts["bahdanau-hf"] == __version__
    assert facts["python"] == platform.python_version()
    assert facts["torch"] == torch.__version__
    for name in ("transformers", "tokenizers", "datasets", "accelerate", "sacrebleu", "numpy"):
        assert facts[name] == version(name)
    assert facts["threads"] == str(torch.get_num_threads())
    assert facts["instructions"] == torch.backends.cpu.get_cpu_capability()
    assert facts["mps"] == ("available" if torch.backends.mps.is_available() else "none")


def test_json_and_text_say_the_same(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    text = told(capsysbinary)
    assert cli.main(["env", "--json"]) == 0
    facts = json.loads(capsysbinary.readouterr().out)
    assert list(facts) == list(text)
    assert {k: "not installed" if v is None else str(v) for k, v in facts.items()} == text


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env_command, "OPTIONAL", ("no-such-distribution", "pytest"))
    facts = env_command.environment()
    assert facts["no-such-distribution"] is None
    assert facts["pytest"] == version("pytest")


def test_optional_libraries_are_known_to_the_project() -> None:
    """A name that nobody installs would always read as missing."""
    declared = (ROOT / "pyproject.toml").read_text()
    for name in (*env_command.LIBRARIES, *env_command.OPTIONAL):
        assert f'"{name}>=' in declared, name


def test_pretended_answers_are_shown(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    with pretending(**dict.fromkeys(Processor._fields, False)):
        answers = told(capsysbinary)["processor_answers"]
    assert answers == ",".join(f"{name}=0" for name in Processor._fields)
    with pretending(int8=False, vnni=True):
        answers = told(capsysbinary)["processor_answers"].split(",")
    assert {"int8=0", "vnni=1"} <= set(answers)


def test_processors_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("processor\t: 0\nmodel name\t: Abacus 3: the fast one\nflags\t: beads\n")
    monkeypatch.setattr(env_command, "Path", lambda _: info)
    assert env_command.processor_name() == "Abacus 3: the fast one"
    info.write_text("cpu family\t: 25\nmodel\t\t: 17\nmodel name\t: Abacus\nstepping\t: 1\n")
    assert env_command.processor_name() == "Abacus (family 25, model 17)", "as of a rented machine"
    info.write_text("model name\t: Abacus\nmodel\t\t:\nstepping\t: 1\n")
    assert env_command.processor_name() == "Abacus"
    monkeypatch.setattr(platform, "processor", lambda: "")
    info.write_text("processor\t: 0\nCPU implementer\t: 0x41\n")  # as on ARM
    assert env_command.processor_name() == platform.machine()
    info.unlink()
    assert env_command.processor_name() == platform.machine()


def test_devices_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda i: f"Card {i}")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    cuda = env_command.environment()["cuda"]
    assert cuda == "Card 0, Card 1 (PyTorch is built for CUDA 13.0)"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert env_command.environment()["cuda"] == "none (PyTorch has no CUDA)"


def test_way_of_computing(clean: pytest.MonkeyPatch) -> None:
    assert env_command.environment()["implementation"] == "fast (the default)"
    clean.setenv("BAHDANAU_IMPLEMENTATION", "fast")
    assert env_command.environment()["implementation"] == "fast (BAHDANAU_IMPLEMENTATION)"

    class Model:
        def chosen_implementation(self) -> tuple[str, str]:
            return "slow", "it was asked to"

    assert env_command.environment(Model())["implementation"] == "slow (it was asked to)"


def test_a_checkpoint_is_loaded_but_not_named(
    tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_checkpoint(tmp_path / PRIVATE, num_steps=1)
    monkeypatch.setattr(
        env_command, "_way_of_computing", lambda model: (type(model).__name__, "as loaded")
    )
    facts = told(capsysbinary, "--model", str(folder))
    assert facts["implementation"] == "BahdanauForConditionalGeneration (as loaded)"
    assert PRIVATE not in str(facts)


def test_no_checkpoint_there(tmp_path: Path, capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["env", "--model", str(tmp_path)]) == 2
    out, err = capsysbinary.readouterr()
    assert out == b""
    assert err.startswith(b"bahdanau-hf: error: ")
    assert err.count(b"\n") == 1


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("OMP_NUM_THREADS", "3", "3"),
        ("ATEN_CPU_CAPABILITY", "avx2", "avx2"),
        ("ONEDNN_MAX_CPU_ISA", "AVX2", "AVX2"),
        ("MKL_NUM_THREADS", "2", "2"),
        ("CUDA_VISIBLE_DEVICES", "", ""),
        ("HF_HUB_OFFLINE", "1", "1"),
        ("BAHDANAU_ANYTHING", "a\nb: c\x1b[2J", r"'a\nb: c\x1b[2J'"),
        ("BAHDANAU_FOLDER", f"/home/{PRIVATE}/x", "a path"),
        ("BAHDANAU_FOLDER", f"C:\\Users\\{PRIVATE}", "a path"),
        ("HF_ENDPOINT", "https://hub.example", "https://hub.example"),
        ("HF_ENDPOINT", f"https://me:{PRIVATE}@hub.example:8/{PRIVATE}?t={PRIVATE}#{PRIVATE}",
         "https://hub.example:8"),
        ("HF_ENDPOINT", f"https://[{PRIVATE}", "not an address"),
    ],
)  # fmt: skip
def test_settings(name: str, value: str, shown: str, clean: pytest.MonkeyPatch) -> None:
    clean.setenv(name, value)
    facts = env_command.environment()
    assert facts[name] == shown
    assert list(facts)[-1] == name, "settings come last"
    assert PRIVATE not in str(facts)


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY", "BAHDANAU_TOKEN", "BAHDANAU_API_KEY",
     "MKL_PASSWORD", "HF_HOME", "HOME", "PATH", "USER", "HOSTNAME"],
)  # fmt: skip
def test_other_variables_are_not_told(name: str, clean: pytest.MonkeyPatch) -> None:
    before = env_command.environment()
    clean.setenv(name, PRIVATE)
    assert env_command.environment() == before


@pytest.mark.parametrize("flags", [[], pytest.param(["--json"], marks=pytest.mark.slow)])
def test_a_process_of_its_own_tells_nothing_private(tmp_path: Path, flags: list[str]) -> None:
    home = tmp_path / PRIVATE
    home.mkdir()
    private = dict.fromkeys(("HF_TOKEN", "USER", "LOGNAME", "HF_HUB_TOKEN"), PRIVATE)
    done = subprocess.run(
        [sys.executable, "-m", "bahdanau_hf", "env", *flags],
        env={**os.environ, **private, "HOME": str(home), "BAHDANAU_PROCESSOR": "int8=0,vnni=0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "int8=0,vnni=0" in done.stdout
    for word in (PRIVATE, str(ROOT), sys.prefix):
        assert word not in done.stdout
