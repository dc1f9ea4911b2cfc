"""A small trained checkpoint and what the command makes of it for ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from bahdanau_hf import BahdanauForConditionalGeneration
    from bahdanau_hf.inference.translator import Translator


EXAMPLE = "examples/onnx_translate.py"


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
    import torch

    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 8):
        pytest.skip("exporting needs PyTorch 2.8")
    from huggingface_hub.utils import WeakFileLock

    from bahdanau_hf.inference.translator import Translator

    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # that of all processes of this run: one exports for all
    checkpoint, out = folder / "exported-checkpoint", folder / "exported-onnx"
    with WeakFileLock(folder / "exported.lock"):
        if not out.exists():
            export(checkpoint, folder / "exporting")
            (folder / "exporting").rename(out)
    return Exported(checkpoint, out, Translator.from_pretrained(checkpoint, device="cpu"))


def export(checkpoint: Path, out: Path) -> None:
    """Train a small model into `checkpoint`, and export it into `out`."""
    from bahdanau_hf import cli
    from tests.helpers.tiny_checkpoint import make_checkpoint

    make_checkpoint(checkpoint, encoder_layers=2, decoder_layers=2, readout="deep")
    command = ["export", "--model", str(checkpoint), "--format", "onnx", "--output_dir", str(out)]
    assert cli.main(command) == 0
