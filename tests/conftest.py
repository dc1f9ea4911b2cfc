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
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

pytest.register_assert_rewrite("tests.helpers")
pytest_plugins = ["tests.helpers.browser", "tests.helpers.exported_checkpoint"]  # their fixtures

PAIRS = Path(__file__).parent / "fixtures" / "pairs.tsv"

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


def pytest_collection() -> None:
    """Before the tests' files are read."""
    gc.disable()  # what is imported now stays: nothing of it is worth looking for


@pytest.hookimpl(tryfirst=True)  # before the slow ones are taken out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the marker `grid` does: leave a few combinations, and mark the others as slow."""
    grids: dict[tuple[str, str], list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("grid"):
            assert item.parent is not None
            grids.setdefault((item.parent.nodeid, item.originalname), []).append(item)
    for cases in grids.values():
        kept = covering([case.callspec.params for case in cases])
        for n, case in enumerate(cases):
            if n not in kept:
                case.add_marker(pytest.mark.slow)


def covering(cases: Sequence[Mapping[str, Any]]) -> set[int]:
    """Few cases in which every value of every parameter occurs, by their places in `cases`.

    Of those that would do, the ones in which most pairs of values meet that have not met before,
    and of these the ones whose values have occurred least.
    """
    values = [{f"{name}={value!r}" for name, value in case.items()} for case in cases]
    pairs = [set(combinations(sorted(case), 2)) for case in values]
    missing, unmet = set().union(*values), set().union(*pairs)
    kept: set[int] = set()
    uses: Counter[str] = Counter()

    def merit(n: int) -> tuple[int, int, int]:
        return len(values[n] & missing), len(pairs[n] & unmet), -sum(uses[x] for x in values[n])

    while missing:
        best = max(range(len(cases)), key=merit)
        kept.add(best)
        missing -= values[best]
        unmet -= pairs[best]
        uses.update(values[best])
    return kept


def pytest_collection_finish() -> None:
    """The libraries are a million objects: looking through them for garbage took a tenth of it."""
    gc.freeze()
    gc.set_threshold(700, 10, 100)  # and through what tests import later, a tenth as often
    gc.enable()


def make_config(**changes: Any) -> BahdanauConfig:
    from bahdanau_hf import BahdanauConfig

    return BahdanauConfig(**(TINY | changes))


def make_model(**changes: Any) -> BahdanauForConditionalGeneration:
    """A model with random weights in float64, ready for comparisons."""
    from bahdanau_hf import BahdanauForConditionalGeneration

    return BahdanauForConditionalGeneration(make_config(**changes)).double().eval()


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
def tiny_tokenizer(pairs: list[tuple[str, str]]) -> Any:
    """A `word-char` tokenizer that knows every token of `pairs`."""
    from bahdanau_hf.data.tokenization import train_tokenizer

    english, chinese = zip(*pairs, strict=True)
    return train_tokenizer(english, chinese, kind="word-char", min_frequency=1)
