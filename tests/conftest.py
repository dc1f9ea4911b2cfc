"""What every test stands on: no network, one thread, a seed per test, tiny models, 64 pairs."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported

import csv
import logging
import random
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import dynamic_module_utils

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration

pytest_plugins = ["browser", "exported_checkpoint"]  # their fixtures

PAIRS = Path(__file__).parent / "data" / "pairs.tsv"

# Odd and all different, so that two dimensions cannot be mistaken for each other.
TINY = {
    "vocab_size": 13,
    "encoder_vocab_size": 17,
    "embedding_size": 5,
    "hidden_size": 7,
    "attention_hidden_size": 3,
    "dropout": 0.0,
}

# One of every kind of model; the keys are the tests' names.
VARIANTS: dict[str, dict[str, Any]] = {
    "one-way": {"bidirectional_encoder": False},
    "two-way": {},
    "two-way-deep": {"readout": "deep", "readout_size": 9},
    "layers": {"encoder_layers": 2, "decoder_layers": 3, "readout": "deep"},
    "one-way-layers": {
        "bidirectional_encoder": False,
        "encoder_layers": 2,
        "decoder_layers": 2,
    },
    "plain": {"use_attention": False},
    "plain-deep": {"use_attention": False, "readout": "deep", "decoder_layers": 2},
    "tied": {"readout": "deep", "tie_word_embeddings": True},
}


def make_config(**changes: Any) -> BahdanauConfig:
    return BahdanauConfig(**(TINY | changes))


def make_model(**changes: Any) -> BahdanauForConditionalGeneration:
    """A model with random weights in float64, ready for comparisons."""
    return BahdanauForConditionalGeneration(make_config(**changes)).double().eval()


@pytest.fixture(autouse=True, scope="session")
def one_thread_and_no_stale_memory() -> None:
    torch.set_num_threads(1)
    # In this mode fresh memory is filled with NaN (integers: the largest), so reading it shows.
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture(autouse=True, scope="session")
def one_place_for_checkpoints_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is imported from there stays bound to it, for all tests of this process."""
    with pytest.MonkeyPatch.context() as patch:
        modules = str(tmp_path_factory.mktemp("modules"))
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", modules)
        yield


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """Every test has its own seed, whatever runs before it."""
    number = zlib.crc32(request.node.nodeid.encode())
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 (libraries draw from it)
    torch.manual_seed(number)
    return number


@pytest.fixture(autouse=True)
def gradients_stay_on() -> Iterator[None]:
    yield
    assert torch.is_grad_enabled(), "a test has left gradients switched off"


@pytest.fixture(autouse=True)
def the_package_stays_talkative() -> Iterator[None]:
    """Programs run inside a test choose how much the package says; the next test hears all."""
    logger = logging.getLogger("bahdanau_hf")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The configuration changes of each kind of model in turn."""
    return VARIANTS[request.param]


@pytest.fixture
def model(variant: dict[str, Any]) -> BahdanauForConditionalGeneration:
    """A tiny float64 model of each kind in turn."""
    return make_model(**variant)


@pytest.fixture
def tiny_config() -> Callable[..., BahdanauConfig]:
    return make_config


@pytest.fixture
def tiny_model() -> Callable[..., BahdanauForConditionalGeneration]:
    return make_model


@pytest.fixture(scope="session")
def pairs() -> list[tuple[str, str]]:
    """64 English-Chinese pairs."""
    with PAIRS.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    return [(row["en"], row["zh"]) for row in rows]


@pytest.fixture(scope="session")
def pairs_file() -> Path:
    """The same as a file: a header and tab-separated columns `en` and `zh`."""
    return PAIRS


@pytest.fixture(scope="session")
def tiny_tokenizer(pairs: list[tuple[str, str]]) -> Any:
    """A `word-char` tokenizer that knows every token of `pairs`."""
    from bahdanau_hf.tokenization import train_tokenizer

    english, chinese = zip(*pairs, strict=True)
    return train_tokenizer(english, chinese, kind="word-char", min_frequency=1)
