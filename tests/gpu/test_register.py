"""The door to the ways of computing for a GPU: open where there is one, and nothing behind it read.

What is behind it: `test_cuda_graphs.py` and, on a device, `test_cuda.py`.
"""

import subprocess
import sys

import pytest
import torch

from bahdanau_hf import gpu
from bahdanau_hf.modeling import modeling_bahdanau
from bahdanau_hf.modeling.modeling_bahdanau import (
    FAST_WAYS,
    default_implementation,
    implementations,
)
from tests.helpers.places import ROOT

PROGRAM = """
import sys, torch
torch.cuda.device_count = lambda: {devices}
from bahdanau_hf import BahdanauModel
from bahdanau_hf.modeling.modeling_bahdanau import implementations
print(*implementations())
print([name for name in sys.modules if name.startswith("bahdanau_hf.gpu.")])
"""


@pytest.mark.parametrize(
    ("devices", "names"),
    [
        # `test_without_a_device_they_are_refused_in_a_line` sees it in this process.
        pytest.param(0, "reference fast", marks=pytest.mark.slow),
        (1, "reference fast cuda"),
    ],
)
def test_the_package_adds_them_where_there_is_a_device(devices, names) -> None:
    """And reads none of their modules yet but the one that asks for the device."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(devices=devices)], cwd=ROOT, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [names, "['bahdanau_hf.gpu.device']"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="they are there")
def test_without_a_device_they_are_refused_in_a_line(tiny_model) -> None:
    with pytest.raises(ValueError, match=r"^implementation must be one of .*$") as refusal:
        tiny_model().set_implementation("cuda")
    expected = "implementation must be one of reference, fast here, not 'cuda'"
    assert str(refusal.value) == expected


def test_it_has_ways_of_its_own_for_everything(ways_of_gpus) -> None:
    assert implementations() == ("reference", "fast", "cuda")
    assert not set(FAST_WAYS["cuda"]) & set(FAST_WAYS["fast"])
    gpu.register()
    assert implementations() == ("reference", "fast", "cuda")


def test_the_environment_chooses_where_code_does_not(monkeypatch, tiny_model, ways_of_gpus) -> None:
    warnings: list[str] = []
    monkeypatch.setattr(modeling_bahdanau.logger, "warning", warnings.append)
    model = tiny_model()
    for name, expected in ((None, "fast"), ("", "fast"), ("reference",) * 2, ("cuda",) * 2):
        if name is None:
            monkeypatch.delenv("BAHDANAU_IMPLEMENTATION", raising=False)
        else:
            monkeypatch.setenv("BAHDANAU_IMPLEMENTATION", name)
        assert default_implementation() == expected
        assert model.chosen_implementation().name == expected
    assert warnings == []
    model.set_implementation("fast")
    assert model.chosen_implementation().name == "fast"
    model.set_implementation(None)
    assert model.chosen_implementation().name == "cuda"
    for wish, expected in (("", "cuda"), ("fast", "fast"), ("cuda", "cuda")):
        monkeypatch.setenv("BAHDANAU_IMPLEMENTATION", wish)
        assert default_implementation("cuda") == expected
    monkeypatch.setenv("BAHDANAU_IMPLEMENTATION", "cdua")
    assert default_implementation() == model.chosen_implementation().name == "fast"
    assert len(warnings) == 1
    assert "'cdua', none of reference, fast, cuda" in warnings[0]
    with pytest.raises(ValueError, match=r"must be one of .* not 'quick'"):
        model.set_implementation("quick")
