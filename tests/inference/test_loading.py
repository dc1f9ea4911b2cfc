"""Loading a checkpoint: whatever is wrong with it is said in one line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration, InputError
from bahdanau_hf.data.tokenization import load_tokenizer
from bahdanau_hf.data.vocabulary import train_tokenizer
from bahdanau_hf.inference.loading import check_tokenizer
from bahdanau_hf.inference.translator import Translator
from tests.helpers.tiny_checkpoint import PAIRS


def rewrite_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def damage(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    if how == "no config":
        (folder / "config.json").unlink()
    elif how == "config is no JSON":
        (folder / "config.json").write_text("{")
    elif how == "foreign":
        rewrite_config(folder, model_type="marian", architectures=["MarianMTModel"])
    elif how == "senseless config":
        rewrite_config(folder, hidden_size=0)
    elif how == "other sizes":
        rewrite_config(folder, hidden_size=41)
    elif how == "other layers":
        rewrite_config(folder, encoder_layers=2)
    elif how == "another decoder":
        rewrite_config(folder, conditional_gru=True)
    elif how == "no weights":
        weights.unlink()
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "garbage":
        weights.write_bytes(b"\x00garbage")
    elif how == "a tensor is missing":
        tensors = load_file(weights)
        del tensors["lm_head.bias"]
        save_file(tensors, weights, {"format": "pt"})
    elif how == "a tensor too many":
        save_file({**load_file(weights), "extra": torch.ones(1)}, weights, {"format": "pt"})
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "broken tokenizer":
        (folder / "tokenizer.json").write_text("[]")
    elif how == "other tokenizer":
        sources, targets = zip(*PAIRS[3:], strict=True)
        train_tokenizer(sources, targets, kind="word-char", min_frequency=1).save_pretrained(folder)
    elif how == "other target part":
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "target_vocab_size": 99}))


@pytest.mark.parametrize(
    ("file", "name", "value"),
    [
        ("generation_config.json", "eos_token_id", "2"),
        ("generation_config.json", "eos_token_id", [2, -1]),
        ("generation_config.json", "decoder_start_token_id", 10**6),
        ("generation_config.json", "max_length", 2**70),
        ("generation_config.json", "num_beams", True),
        ("generation_config.json", "length_penalty", "high"),
        ("tokenizer_config.json", "model_max_length", "long"),
        ("tokenizer_config.json", "model_max_length", 0),
        ("tokenizer_config.json", "target_vocab_size", [1]),
    ],
)
def test_values_that_do_not_make_sense(copy: Path, file: str, name: str, value: Any) -> None:
    path = copy / file
    path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
    with pytest.raises(InputError, match=rf"{file} does not make sense: {name} ") as caught:
        Translator.from_pretrained(copy, device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no config", r"holds no model: no config\.json$"),
        ("config is no JSON", r"cannot read .*/config\.json: .*JSON"),
        ("foreign", "a model of type 'marian', not 'bahdanau'"),
        ("senseless config", "hidden_size must be at least 1"),
        ("other sizes", r"config.json: 17 of another size, such as lm_head.weight$"),
        ("another decoder", r"config.json: 4 missing, such as model.decoder.transition.bias_hh$"),
        ("other layers", "do not fit its config.json"),
        ("no weights", "no model.safetensors"),
        ("truncated", "may be damaged"),
        ("garbage", "may be damaged"),
        ("a tensor is missing", "1 missing, such as lm_head.bias"),
        ("a tensor too many", "1 unexpected, such as extra"),
        ("no tokenizer", "tokenizer"),
        ("broken tokenizer", "cannot load a tokenizer from"),
        ("other tokenizer", "does not belong to the model"),
        ("other target part", "does not belong to the model"),
    ],
)
def test_checkpoints_that_cannot_be_used(copy: Path, how: str, message: str) -> None:
    damage(copy, how)
    with pytest.raises(InputError, match=message) as caught:
        Translator.from_pretrained(copy, device="cpu")
    assert "\n" not in str(caught.value)


def test_a_search_without_a_start(copy: Path) -> None:
    path = copy / "generation_config.json"
    nothing = {"decoder_start_token_id": None, "bos_token_id": None}
    path.write_text(json.dumps({**json.loads(path.read_text()), **nothing}))
    with pytest.raises(InputError, match="a translation starts with an id"):
        Translator.from_pretrained(copy, device="cpu")


def test_places_without_a_checkpoint(
    checkpoint: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    slips = ("./none", "a/b/c", "none/", "none", "runs/none", "", "my model/x", "a/b..c", "-a/b")
    for missing in (tmp_path / "none", *slips):
        with pytest.raises(InputError, match="no such folder"):
            Translator.from_pretrained(missing)
    with pytest.raises(InputError, match="is a file"):
        Translator.from_pretrained(checkpoint / "config.json")
    run = tmp_path / "runs"
    for step in (9, 10):
        shutil.copytree(copy, run / f"checkpoint-{step}")
    with pytest.raises(InputError, match=r"did you mean .*checkpoint-10\?"):
        Translator.from_pretrained(run)
    for slip in ("runs/checkpiont-10", run / "checkpoint10", "./runs/checkpoint-1O"):
        with pytest.raises(InputError, match=r"no such folder: .*did you mean .*checkpoint-10\?"):
            Translator.from_pretrained(slip)
    # conftest.py keeps the Hub out of reach.
    with pytest.raises(InputError, match="there is no folder nobody/nothing, and from the Hub"):
        Translator.from_pretrained("nobody/nothing")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "abacus"}, "cannot run on device 'abacus'"),
        ({"device": "cuda:99"}, "cannot run on device 'cuda:99'"),
        ({"dtype": "float31"}, "cannot run in 'float31'"),
        ({"dtype": "int16"}, "cannot run in torch.int16"),
        ({"dtype": "int8", "device": "meta"}, "cannot run in int8: .* on a CPU, not on meta"),
        ({"dtype": "nn"}, "cannot run in"),
    ],
)
def test_devices_that_are_not_there(
    checkpoint: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Translator.from_pretrained(checkpoint, **{"device": "cpu", **options})
    assert "\n" not in str(caught.value)


def test_added_tokens_belong_to_a_resized_model(checkpoint: Path) -> None:
    model = BahdanauForConditionalGeneration.from_pretrained(checkpoint)
    tokenizer = load_tokenizer(checkpoint)
    tokenizer.add_tokens(["<name>"])
    with pytest.raises(InputError, match="does not belong"):
        Translator(model, tokenizer)
    model.resize_token_embeddings(len(tokenizer))
    assert Translator(model, tokenizer).translate("Call us.")[0].text == "联系我们。"


def test_other_special_ids_do_not_belong(checkpoint: Path) -> None:
    model = BahdanauForConditionalGeneration.from_pretrained(checkpoint)
    config = BahdanauConfig(**{**model.config.to_dict(), "eos_token_id": 5})
    with pytest.raises(InputError, match="eos_token_id is 2, not 5"):
        check_tokenizer(config, load_tokenizer(checkpoint))
