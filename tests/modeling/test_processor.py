"""What the processor can do is asked once, and whatever it cannot do is done in another way."""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bahdanau_hf import BahdanauForConditionalGeneration
from bahdanau_hf.modeling import processor_bahdanau
from bahdanau_hf.modeling.processor_bahdanau import Processor, multiplies_fast, processor
from tests.helpers.batches import SOURCES, batch, pad
from tests.helpers.decisive_model import wide_model
from tests.helpers.pretences import pretending

NOTHING = Processor()
ABSENCES = [*({name: False} for name in Processor._fields), NOTHING._asdict()]


def called(answers: dict[str, bool]) -> str:
    return next(iter(answers)) if len(answers) == 1 else "everything"


@pytest.fixture(params=ABSENCES, ids=called)
def absent(request: pytest.FixtureRequest) -> Iterator[Processor]:
    with pretending(**request.param) as answers:
        yield answers


def translate(model: BahdanauForConditionalGeneration) -> list[list[list[int]]]:
    ids, mask = pad(SOURCES, "right")
    options = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": 8}
    return [model.generate(**options, num_beams=num_beams).tolist() for num_beams in (1, 3)]


@pytest.mark.parametrize("shape", [{}, {"readout": "deep", "conditional_gru": True}], ids=str)
def test_the_same_tokens_whatever_is_missing(absent: Processor, shape: dict[str, Any]) -> None:
    model = wide_model(**shape)
    found = translate(model)
    with pretending(**NOTHING._asdict()):
        assert found == translate(copy.deepcopy(model))
    model.set_implementation("reference")
    assert found == translate(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_decode_whatever_is_missing(absent: Processor, dtype: torch.dtype) -> None:
    """Greedily the same tokens as where nothing is there: by the weights so rounded, in float32.

    Beams add up what hardware rounds and float32 does not.
    """
    model = wide_model().to(dtype)
    greedy, beams = translate(model)
    with pretending(**NOTHING._asdict()):
        expected = translate(copy.deepcopy(model))
    assert greedy == expected[0]
    assert [row[0] for row in beams] == [row[0] for row in expected[1]]


def test_eight_bits_or_a_line_that_says_why_not(absent: Processor) -> None:
    model = wide_model()
    if not absent.int8:
        with pytest.raises(ValueError, match="no 8-bit products: they need FBGEMM"):
            model.use_int8()
        return
    expected = translate(model)
    found = translate(model.use_int8())
    assert [len(rows) for rows in found] == [len(rows) for rows in expected]


@pytest.mark.parametrize("autocast", [None, torch.bfloat16])
def test_the_same_gradients_whatever_is_missing(absent: Processor, autocast) -> None:
    model = wide_model(readout="deep", conditional_gru=True, initializer_range=1.0).train()

    def gradients() -> dict[str, torch.Tensor]:
        torch.manual_seed(1)
        model.zero_grad()
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            loss = model(**batch(), skip_logits=True).loss
        loss.backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    found = gradients()
    with pretending(**NOTHING._asdict()):
        expected = gradients()
    for name, gradient in expected.items():
        # Autocast rounds the products to 8 bits where there is hardware for it, and not elsewhere.
        error = (found[name] - gradient).norm()
        assert error <= (1e-5 if autocast is None else 0.1) * gradient.norm() + 1e-7, name


def test_sixteen_bits_without_hardware_are_no_trap() -> None:
    cpu = torch.device("cpu")
    with pretending(bfloat16=False, float16=True):
        assert not multiplies_fast(torch.bfloat16, cpu)
        assert multiplies_fast(torch.float16, cpu)
        assert multiplies_fast(torch.float32, cpu)
        assert multiplies_fast(torch.bfloat16, torch.device("cuda"))


def test_pretences_end() -> None:
    before = processor()
    with pytest.raises(RuntimeError, match="inside"):
        fail_while_pretending()
    assert processor() == before


def fail_while_pretending() -> None:
    with pretending(**NOTHING._asdict()):
        assert processor() == NOTHING
        raise RuntimeError("inside")


def test_private_operators_may_vanish(monkeypatch) -> None:
    """In a PyTorch without them every answer is no, and nothing raises."""

    class Empty:
        def __getattr__(self, name: str) -> Any:
            raise AttributeError(name)

    for where in ("mkldnn", "quantized"):
        monkeypatch.setattr(torch.ops, where, Empty())
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.delattr(torch.cpu, "_is_vnni_supported", raising=False)
    monkeypatch.delenv("BAHDANAU_PROCESSOR", raising=False)
    assert processor_bahdanau._asked.__wrapped__() == NOTHING


def test_the_environment_pretends() -> None:
    code = "from bahdanau_hf.modeling.processor_bahdanau import processor; print(*processor())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env=os.environ | {"BAHDANAU_PROCESSOR": "int8=0,onednn=0,speed=1"},
    )  # fmt: skip
    answers = dict(zip(Processor._fields, done.stdout.split(), strict=True))
    assert answers["int8"] == answers["onednn"] == "False"
    assert "'speed=1'" in done.stderr


def test_what_a_shape_leaves_behind_is_bounded() -> None:
    """oneDNN and PyTorch read these when the first product is taken."""
    for name in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
        assert int(os.environ[name]) <= 64
