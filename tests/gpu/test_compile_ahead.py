"""Compiling ahead: what it is started with, and that it disturbs nothing. No device is needed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bahdanau_hf import BahdanauConfig
from bahdanau_hf.gpu import compile_ahead
from bahdanau_hf.training.arguments import parse_arguments
from bahdanau_hf.training.setup import compile_kernels

CPU = torch.device("cpu")


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    found: list[tuple] = []
    monkeypatch.setattr(compile_ahead, "can_run_kernels", lambda device: True)
    monkeypatch.setattr(compile_ahead, "call_kernels", lambda *given: found.append(given))
    return found


@pytest.mark.parametrize(
    ("precision", "dtype"), [("no", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_it_calls_a_model_of_the_runs_shape(precision: str, dtype: Any, calls: list) -> None:
    flags = ["--hidden_size=24", "--decoder_layers=2", "--guided_attention_weight=0.1"]
    flags.append("--conditional_gru=false")
    accelerator: Any = SimpleNamespace(mixed_precision=precision, device=CPU)
    compile_kernels(accelerator, parse_arguments(["tiny", *flags])).join()
    ((config, device, autocast, guided),) = calls
    assert (config.hidden_size, config.decoder_layers, config.vocab_size) == (24, 2, 8)
    assert (device, autocast, guided) == (CPU, dtype, True)


@pytest.mark.parametrize(
    "flag", ["--model_name_or_path=runs/base", "--preprocessing_num_workers=2"]
)
def test_nothing_is_called_for_another_model_and_beside_forks(flag: str, calls: list) -> None:
    accelerator: Any = SimpleNamespace(mixed_precision="no", device=CPU)
    compile_kernels(accelerator, parse_arguments([flag])).join()
    assert calls == []


def test_what_fails_is_left_to_the_training(monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    monkeypatch.setattr(compile_ahead, "can_run_kernels", lambda device: True)
    with caplog.at_level("DEBUG", logger=compile_ahead.__name__):
        compile_ahead.compile_ahead({"hidden_size": -1}, CPU, None, False).join()
    assert "not compiled ahead" in caplog.text


@pytest.mark.parametrize("guided", [True, False])
def test_nothing_random_is_drawn(guided: bool) -> None:
    config = BahdanauConfig(vocab_size=8, hidden_size=6, embedding_size=4, embedding_dropout=0.5)
    before = torch.get_rng_state()
    compile_ahead.call_kernels(config, CPU, None, guided)
    assert torch.equal(torch.get_rng_state(), before)
