"""What every test stands on: no network, one thread, a seed per test, tiny models, 64 pairs.

The libraries are imported where they are needed: the process that hands out tests to others reads
this file as well, and runs none of them.
"""

from __future__ import annotations

import csv
import gc
import logging
import os
import random
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.helpers.places import PAIRS, fingerprint
from tests.helpers.tiny_model import VARIANTS, make_config, make_model

if TYPE_CHECKING:
    from torch import Tensor

    from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration
    from bahdanau_hf.inference.translator import Translator

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

# Their hooks and fixtures.
pytest_plugins = [f"tests.helpers.{name}" for name in ("browser", "exported_checkpoint", "grids")]


def pytest_collection() -> None:
    """Before the tests' files are read."""
    gc.disable()  # what is imported now stays: nothing of it is worth looking for


def pytest_collection_finish() -> None:
    """The libraries are a million objects: looking through them for garbage took a tenth of it."""
    gc.freeze()
    gc.set_threshold(700, 10, 100)  # and through what tests import later, a tenth as often
    gc.enable()


@pytest.fixture(autouse=True, scope="session")
def one_thread_and_no_stale_memory() -> None:
    import torch

    torch.set_num_threads(1)
    # In this mode fresh memory is filled with NaN (integers: the largest), so reading it shows.
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture(autouse=True, scope="session")
def one_place_for_checkpoints_code(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is imported from there stays bound to it, for all tests of this process."""
    from transformers import dynamic_module_utils

    with pytest.MonkeyPatch.context() as patch:
        modules = str(tmp_path_factory.mktemp("modules"))
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", modules)
        yield


@pytest.fixture(autouse=True)
def seed(request: pytest.FixtureRequest) -> int:
    """Every test has its own seed, whatever runs before it."""
    import numpy as np
    import torch

    number = zlib.crc32(request.node.nodeid.encode())
    random.seed(number)
    np.random.seed(number)  # noqa: NPY002 (libraries draw from it)
    # Not by `torch.manual_seed`: it writes down the whole stack for devices that are not there,
    # which took longer than most of these tests.
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(number)
    return number


@pytest.fixture(autouse=True)
def gradients_stay_on() -> Iterator[None]:
    import torch

    yield
    assert torch.is_grad_enabled(), "a test has left gradients switched off"


@pytest.fixture(autouse=True)
def the_package_stays_talkative() -> Iterator[None]:
    """Programs run inside a test choose how much the package says; the next test hears all."""
    logger = logging.getLogger("bahdanau_hf")
    level = logger.level
    yield
    logger.setLevel(level)


@pytest.fixture(scope="module")
def ways_of_gpus() -> Iterator[None]:
    """What `set_implementation` takes where there is a GPU; on a CPU the same code runs."""
    from bahdanau_hf import gpu
    from bahdanau_hf.modeling.modeling_bahdanau import FAST_WAYS

    before = dict(FAST_WAYS)
    gpu.register()
    yield
    FAST_WAYS.clear()
    FAST_WAYS.update(before)


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


@pytest.fixture
def own_searches(monkeypatch) -> list[str]:
    """The names of our own searches, each time that one has returned."""
    from bahdanau_hf.modeling.modeling_bahdanau import FAST_WAYS

    calls: list[str] = []

    def recorded(name: str, search: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def record(*args: Any, **options: Any) -> Tensor:
            output = search(*args, **options)
            calls.append(name)
            return output

        return record

    names = ("greedy_search", "beam_search")
    way = FAST_WAYS["fast"]
    way = way._replace(**{name: recorded(name, getattr(way, name)) for name in names})
    monkeypatch.setitem(FAST_WAYS, "fast", way)
    return calls


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
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model that knows sixteen sentences by heart, in a folder that stays as it is."""
    from tests.helpers.tiny_checkpoint import make_checkpoint

    folder = make_checkpoint(tmp_path_factory.mktemp("shared") / "checkpoint")
    before = fingerprint(folder)
    yield folder
    assert fingerprint(folder) == before, "a test has changed the checkpoint of all"


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint, to be damaged."""
    return Path(shutil.copytree(checkpoint, tmp_path / "copy"))


@pytest.fixture(scope="module")
def translator(checkpoint: Path) -> Translator:
    from bahdanau_hf.inference.translator import Translator

    return Translator.from_pretrained(checkpoint, device="cpu")


@pytest.fixture(scope="session")
def tiny_tokenizer(pairs: list[tuple[str, str]]) -> Any:
    """A `word-char` tokenizer that knows every token of `pairs`."""
    from bahdanau_hf.data.vocabulary import train_tokenizer

    english, chinese = zip(*pairs, strict=True)
    return train_tokenizer(english, chinese, kind="word-char", min_frequency=1)
