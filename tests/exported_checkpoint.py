"""A small trained checkpoint and what the command makes of it for ONNX Runtime."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import torch
from tiny_checkpoint import make_checkpoint

from bahdanau_hf import BahdanauForConditionalGeneration
from bahdanau_hf.translation import Translator

EXAMPLE = Path(__file__).parents[1] / "examples" / "onnx_translate.py"


class Exported(NamedTuple):
    """The same model twice, and the folders that it lies in."""

    checkpoint: Path
    folder: Path
    translator: Translator

    @property
    def model(self) -> BahdanauForConditionalGeneration:
        return self.translator.model


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A model with every part there is: both directions, several layers, the deep readout."""
    pytest.importorskip("onnxscript", reason="needs the extra [onnx]")
    pytest.importorskip("onnxruntime", reason="needs the extra [onnx]")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8):
        pytest.skip("exporting needs PyTorch 2.8")
    from bahdanau_hf import cli

    folder = tmp_path_factory.mktemp("exported")
    checkpoint = make_checkpoint(
        folder / "checkpoint", encoder_layers=2, decoder_layers=2, readout="deep"
    )
    out = folder / "onnx"
    command = ["export", "--model", str(checkpoint), "--format", "onnx", "--output_dir", str(out)]
    assert cli.main(command) == 0
    return Exported(checkpoint, out, Translator.from_pretrained(checkpoint, device="cpu"))


def load_example() -> ModuleType:
    """`examples/onnx_translate.py` as a module."""
    spec = importlib.util.spec_from_file_location("onnx_translate", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
