"""In which number format a run trains and scores and a model translates, on whatever hardware."""

import contextlib
import copy
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from bahdanau_hf import InputError, precision
from bahdanau_hf.cli import main as command
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.modeling.processor_bahdanau import processor
from bahdanau_hf.precision import choose_precision, fastest_dtype, is_emulated
from bahdanau_hf.training.arguments import parse_arguments
from bahdanau_hf.training.evaluation import precision_of_training
from bahdanau_hf.training.setup import start_accelerator
from tests.helpers.pretences import pretending
from tests.helpers.tiny_checkpoint import PAIRS
from tests.helpers.tiny_run import logged, train_script

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
WITH = {"bfloat16": True}
WITHOUT = {"bfloat16": False, "bfloat16_packing": False}


@pytest.fixture(autouse=True)
def nothing_is_remembered() -> Iterator[None]:
    """Accelerate keeps one precision for a whole process, and warnings come once."""
    precision._warn_once.cache_clear()
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


# --- what is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "told", "begun", "is_fast", "expected"),
    [
        (None, "no", None, True, "no"),
        (None, "bf16", None, False, "bf16"),
        (None, "no", "bf16", True, "no"),  # which resuming refuses, by name
        ("auto", "no", None, True, "bf16"),
        ("auto", "no", None, False, "no"),
        ("auto", "fp16", None, True, "fp16"),
        ("auto", "bf16", None, False, "bf16"),
        ("auto", "no", "no", True, "no"),
        ("auto", "no", "bf16", False, "bf16"),
        ("auto", "bf16", "no", False, "bf16"),
        ("no", "no", None, True, "no"),
        ("bf16", "no", None, False, "bf16"),
        ("bf16", "bf16", None, False, "bf16"),
        ("no", "bf16", None, False, None),
        ("bf16", "fp16", None, True, None),
    ],
)
def test_who_decides(wanted, told, begun, is_fast, expected) -> None:
    if expected is None:
        message = f"--precision {wanted} .* accelerate is set to {told}.*--mixed_precision {wanted}"
        with pytest.raises(InputError, match=message):
            choose_precision(wanted, told, begun, is_fast)
    else:
        assert choose_precision(wanted, told, begun, is_fast) == expected


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
@pytest.mark.parametrize("has_it", [True, False])
def test_a_processor_has_it_or_not(name: str, has_it: bool) -> None:
    with pretending(**{name: has_it}):
        assert is_emulated(getattr(torch, name), CPU) is not has_it
        assert not is_emulated(torch.float32, CPU)
        assert not is_emulated(torch.float64, CPU)
        if name == "bfloat16":
            assert fastest_dtype(CPU) is (torch.bfloat16 if has_it else torch.float32)


@pytest.mark.parametrize("has_it", [True, False])
def test_a_gpu_has_it_or_not(has_it: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor beside it has."""
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation or has_it
    )
    with pretending(bfloat16=not has_it, float16=False):
        assert fastest_dtype(GPU) is (torch.bfloat16 if has_it else torch.float32)
        assert is_emulated(torch.bfloat16, GPU) is not has_it
        assert not is_emulated(torch.float16, GPU)


def test_other_devices_are_left_alone() -> None:
    mps = torch.device("mps")
    assert fastest_dtype(mps) is torch.float32
    assert not is_emulated(torch.bfloat16, mps)


def test_yaml_takes_no_for_false(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    for written, expected in (("no", "no"), ("'no'", "no"), ("auto", "auto")):
        recipe.write_text(f"precision: {written}\n")
        assert parse_arguments([str(recipe)])[2].precision == expected
    assert parse_arguments([str(recipe), "--precision", "bf16"])[2].precision == "bf16"
    with pytest.raises(InputError, match="invalid choice: 'int8'"):
        parse_arguments(["--precision", "int8"])


# --- a run ---------------------------------------------------------------------------------------


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Go to another machine, as far as the package can see."""

    def go(answers: dict[str, bool], accelerate: str = "no") -> None:
        text = ",".join(f"{name}={int(value)}" for name, value in answers.items())
        monkeypatch.setenv("BAHDANAU_PROCESSOR", text)
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", accelerate)
        processor.cache_clear()
        AcceleratorState._reset_state(reset_partial_state=True)
        assert processor().bfloat16 is answers["bfloat16"]

    yield go
    monkeypatch.undo()
    processor.cache_clear()


def used(folder: Path) -> str:
    """The precision that `settings.json` tells; card and report tell the same."""
    told = str(json.loads((folder / "settings.json").read_text())["precision"])
    assert f"| precision | {told} |" in (folder / "README.md").read_text(encoding="utf-8")
    assert told in (folder / "report.html").read_text(encoding="utf-8")
    return told


MIXED = "bfloat16, weights in float32"
SLOW = (
    "bfloat16 has no hardware on this processor: a step is no faster than in float32, and rounds "
    "more. "
)


@pytest.mark.parametrize(
    ("answers", "expected"), [(WITH, MIXED), (WITHOUT, "float32")], ids=["with", "without"]
)
def test_auto_follows_the_hardware(
    tmp_path: Path, on: Any, answers: dict[str, bool], expected: str, caplog
) -> None:
    on(answers)
    caplog.set_level(logging.INFO)
    assert train_script(tmp_path / "auto", precision="auto") == 0
    assert used(tmp_path / "auto") == expected
    assert f"Training in {expected}: as the hardware does it fastest" in caplog.messages
    assert not [message for message in caplog.messages if "has no hardware" in message]
    on(answers, "bf16" if answers["bfloat16"] else "no")
    assert train_script(tmp_path / "told") == 0
    assert logged(tmp_path / "auto") == logged(tmp_path / "told"), "it is what it says"
    weights = load_file(tmp_path / "auto" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_a_resumed_run_goes_on_as_it_was_begun(tmp_path: Path, on: Any, caplog, capsys) -> None:
    caplog.set_level(logging.INFO)
    changes = {"lr_scheduler_type": "constant", "eval_steps": 2, "precision": "auto"}
    on(WITH)
    assert train_script(tmp_path / "run", **changes, max_train_steps=2) == 0
    on(WITHOUT)
    again = {**changes, "resume_from_checkpoint": "latest"}
    assert train_script(tmp_path / "run", **again) == 0
    assert used(tmp_path / "run") == MIXED
    assert f"Training in {MIXED}: as the run was begun" in caplog.messages
    (warning,) = [message for message in caplog.messages if "has no hardware" in message]
    assert warning == SLOW + "A new run may train in another precision"
    assert [line["step"] for line in logged(tmp_path / "run") if "loss" in line] == [1, 2, 3, 4]
    on(WITH)
    capsys.readouterr()
    assert train_script(tmp_path / "run", **{**again, "precision": "no", "max_train_steps": 6}) == 2
    assert "mixed_precision was bf16, is no" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("wanted", "told", "advice"),
    [
        ("bf16", "no", "Take --precision auto"),
        ("auto", "bf16", "Take --precision auto without --mixed_precision"),
        (None, "bf16", "Take --precision auto without --mixed_precision"),
    ],
)
def test_what_is_slow_is_said_once(on: Any, caplog, wanted, told, advice) -> None:
    for answers in (WITH, WITHOUT):
        on(answers, told)
        start_accelerator(parse_arguments([f"--precision={wanted}"] if wanted else []))
    assert [message for message in caplog.messages if "hardware" in message] == [SLOW + advice]


@pytest.mark.parametrize(
    ("wanted", "told", "message"),
    [
        ("no", "bf16", "error: --precision no (in the recipe or on the command line), but"),
        ("fp16", "no", "error: fp16 needs a GPU"),
        ("auto", "fp16", "error: fp16 needs a GPU"),
        (None, "fp16", "error: fp16 needs a GPU"),
        (None, "fp8", "error: accelerate is set to fp8: a run is in no, bf16 or fp16 here"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, on: Any, capsys, wanted, told, message) -> None:
    on(WITH, told)
    assert train_script(tmp_path / "run", precision=wanted) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.startswith(message)


# --- scores of a run -----------------------------------------------------------------------------


def test_the_precision_of_training_holds_for_all_of_it(tiny_model) -> None:
    """As a copy that accelerate has never seen computes under autocast."""
    plain = tiny_model(readout="deep").float()
    model = copy.deepcopy(plain)
    accelerator = Accelerator(mixed_precision="bf16", cpu=True)
    wrapped = accelerator.prepare(model)
    bare = accelerator.unwrap_model(wrapped)
    built, wrapper = type(bare).forward, bare.__dict__["forward"]
    ids = torch.randint(3, 13, (5, 6))
    inputs = {"input_ids": ids, "max_new_tokens": 9}
    for num_beams in (1, 3):
        with torch.autocast("cpu", torch.bfloat16):
            expected = plain.generate(**inputs, num_beams=num_beams)
            expected_loss = plain(input_ids=ids, labels=ids).loss
        with precision_of_training(accelerator, bare):
            assert bare.forward.__func__ is built
            assert "forward" not in bare.__dict__
            assert torch.equal(bare.generate(**inputs, num_beams=num_beams), expected)
            assert bare(input_ids=ids, labels=ids).loss == expected_loss
    assert bare.__dict__["forward"] is wrapper
    with pytest.raises(KeyError), precision_of_training(accelerator, bare):
        raise KeyError
    assert bare.__dict__["forward"] is wrapper
    assert not torch.is_autocast_enabled("cpu")


def test_without_mixed_precision_nothing_changes(tiny_model) -> None:
    accelerator = Accelerator(cpu=True)
    model = accelerator.unwrap_model(accelerator.prepare(tiny_model()))
    before = dict(model.__dict__)
    with precision_of_training(accelerator, model):
        assert not torch.is_autocast_enabled("cpu")
    assert model.__dict__ == before


def test_a_run_scores_with_the_model_as_it_was_built(tmp_path: Path, monkeypatch) -> None:
    """Wherever a run translates: in validation, for maps, and in the last scores."""
    seen: dict[str, list[tuple[bool, bool]]] = {"stream": [], "align_pairs": []}

    def watch(name: str, method: Any) -> None:
        def watched(translator: Translator, *args: Any, **options: Any) -> Any:
            model = translator.model
            seen[name].append(("forward" in model.__dict__, torch.is_autocast_enabled("cpu")))
            return method(translator, *args, **options)

        monkeypatch.setattr(Translator, name, watched)

    for name in seen:
        watch(name, getattr(Translator, name))
    changes = {"precision": "bf16", "train_file": None, "validation_split_percentage": None}
    changes |= {"max_train_samples": 60, "max_eval_samples": 9, "max_train_steps": 1}
    assert train_script(tmp_path / "run", **changes) == 0
    # Validation and its maps; in the end validation, test and its maps, and the given links.
    assert {name: len(calls) for name, calls in seen.items()} == {"stream": 5, "align_pairs": 1}
    assert {call for calls in seen.values() for call in calls} == {(False, True)}


# --- a model in use ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "expected"), [(WITH, "bfloat16"), (WITHOUT, "float32")], ids=["with", "without"]
)
@pytest.mark.parametrize("saved", ["float32", "bfloat16"])
def test_auto_of_a_translator(
    checkpoint: Path, tmp_path: Path, caplog, answers: dict[str, bool], expected: str, saved: str
) -> None:
    folder = tmp_path / saved
    translator = Translator.from_pretrained(checkpoint, device="cpu", dtype=saved)
    translator.model.save_pretrained(folder)
    translator.tokenizer.save_pretrained(folder)
    precision._warn_once.cache_clear()
    caplog.clear()
    with pretending(**answers):
        translator = Translator.from_pretrained(folder, device="cpu", dtype="auto")
        assert translator.dtype == expected
        assert not caplog.messages
        text = translator.translate(PAIRS[0][0])[0].text
        assert text == PAIRS[0][1]
        kept = [Translator.from_pretrained(folder, device="cpu") for _ in range(2)]
    assert [translator.dtype for translator in kept] == [saved, saved]
    warned = [message for message in caplog.messages if "has no hardware" in message]
    assert len(warned) == (saved == "bfloat16" and not answers["bfloat16"]), "once, if at all"


def test_auto_ends_int8_and_never_chooses_it(checkpoint: Path) -> None:
    with pretending(**WITH):
        translator = Translator.from_pretrained(checkpoint, device="cpu", dtype="int8")
        assert translator.dtype == "int8"
        assert Translator(translator.model, translator.tokenizer, dtype="auto").dtype == "bfloat16"


def test_auto_on_no_device(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="cannot run on device 'abacus'"):
        Translator.from_pretrained(checkpoint, device="abacus", dtype="auto")


@pytest.mark.parametrize("answers", [WITH, WITHOUT], ids=["with", "without"])
def test_the_commands(checkpoint: Path, pairs_file: Path, capfd, answers: dict[str, bool]) -> None:
    expected = "bfloat16" if answers["bfloat16"] else "float32"
    model = ["--model", str(checkpoint), "--device", "cpu"]
    with pretending(**answers):
        score = ["score", *model, "--test_file", str(pairs_file), "--max_new_tokens", "3"]
        assert command([*score, "--dtype", "auto"]) == 0
        printed = capfd.readouterr()
        assert json.loads(printed.out)["dtype"] == expected
        assert "has no hardware" not in printed.err
        align = ["align", *model, PAIRS[0][0], "--links"]
        assert command([*align, "--dtype", "bfloat16"]) == 0
        printed = capfd.readouterr()
        assert json.loads(printed.out)
        lines = [line for line in printed.err.splitlines() if "has no hardware" in line]
        assert len(lines) == (not answers["bfloat16"])
