"""Gives every test the program beside it, `broken.py` or with `--solution` the mended one."""

import runpy
from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--solution", action="store_true", help="test the solutions")


@pytest.fixture(autouse=True)
def the_same_numbers_every_time() -> None:
    torch.manual_seed(7)


@pytest.fixture
def exercise(request: pytest.FixtureRequest) -> SimpleNamespace:
    """What the program defines."""
    name = "solution.py" if request.config.getoption("--solution") else "broken.py"
    return SimpleNamespace(**runpy.run_path(str(request.path.with_name(name))))


@pytest.fixture
def config() -> BahdanauConfig:
    """Sizes that are all different, so that two dimensions cannot be mistaken for each other."""
    return BahdanauConfig(
        vocab_size=13,
        embedding_size=5,
        hidden_size=7,
        attention_hidden_size=3,
        encoder_layers=2,
        decoder_layers=2,
        dropout=0.0,
    )


@pytest.fixture
def model(config: BahdanauConfig) -> BahdanauForConditionalGeneration:
    """The package's model, with random weights: what it computes is right."""
    return BahdanauForConditionalGeneration(config).double().eval().requires_grad_(False)


@pytest.fixture
def endless(config: BahdanauConfig) -> GenerationConfig:
    """Six tokens, without an end token that would stop the search."""
    return GenerationConfig(
        max_new_tokens=6,
        length_penalty=0.0,
        pad_token_id=config.pad_token_id,
        decoder_start_token_id=config.decoder_start_token_id,
    )
