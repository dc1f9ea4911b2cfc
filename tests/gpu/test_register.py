"""The door to the ways of computing for a GPU: open where there is one, and nothing behind it read.

What is behind it: `test_graph.py`, `test_triton.py` and, on a device, `test_gpu.py`.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bahdanau_hf import gpu
from bahdanau_hf.modeling.modeling_bahdanau import FAST_WAYS, implementations

ROOT = Path(__file__).parents[2]
PROGRAM = """
import sys, torch
torch.cuda.device_count = lambda: {devices}
import bahdanau_hf
print(*bahdanau_hf.modeling.modeling_bahdanau.implementations())
print([name for name in sys.modules if name.startswith("bahdanau_hf.gpu.")])
"""


@pytest.mark.parametrize(
    ("devices", "names"), [(0, "reference fast"), (1, "reference fast graph triton")]
)
def test_the_package_adds_them_where_there_is_a_device(devices, names) -> None:
    """And reads none of their modules yet."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(devices=devices)], cwd=ROOT, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [names, "[]"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="they are there")
@pytest.mark.parametrize("name", ["graph", "triton"])
def test_without_a_device_they_are_refused_in_a_line(tiny_model, name) -> None:
    with pytest.raises(ValueError, match=r"^implementation must be one of .*$") as refusal:
        tiny_model().set_implementation(name)
    expected = f"implementation must be one of reference, fast here, not '{name}'"
    assert str(refusal.value) == expected


def test_each_stands_in_for_what_it_is_faster_at(ways_of_gpus) -> None:
    """The rest is that of the ordinary way."""
    assert implementations() == ("reference", "fast", "graph", "triton")
    fast, graph, triton = (FAST_WAYS[name] for name in ("fast", "graph", "triton"))
    assert graph.recur is fast.recur
    assert triton[1:] == fast[1:]
    assert triton.recur is not fast.recur
    assert not set(graph[1:]) & set(fast[1:])
    gpu.register()
    assert implementations() == ("reference", "fast", "graph", "triton")
