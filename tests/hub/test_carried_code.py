"""A checkpoint carries its code: what is written, and that it runs where the package is not."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

import bahdanau_hf
from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration
from bahdanau_hf.hub.model_card import REPO_PLACEHOLDER, write_model_card
from tests.helpers.batches import source
from tests.helpers.decisive_model import decisive
from tests.helpers.strangers import as_stranger
from tests.helpers.tiny_checkpoint import make_checkpoint

MODELING = Path(bahdanau_hf.__file__).parent / "modeling"

STRANGER = """
folder, second, card = sys.argv[1:]
import json, torch
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

inputs = json.load(open(folder + "/inputs.json"))
inputs = {name: torch.tensor(rows) for name, rows in inputs.items()}
answer = {"config": type(AutoConfig.from_pretrained(folder, trust_remote_code=True)).__name__}
try:
    AutoModel.from_pretrained(folder, trust_remote_code=False)
except ValueError as error:
    answer["refused"] = str(error)
for auto in (AutoModel, AutoModelForSeq2SeqLM):
    model = auto.from_pretrained(folder, trust_remote_code=True)
    answer[auto.__name__] = {
        "class": type(model).__name__,
        "module": type(model).__module__,
        "greedy": model.generate(**inputs, max_new_tokens=6).tolist(),
        "beams": model.generate(**inputs, max_new_tokens=6, num_beams=3).tolist(),
        "logits": model(**inputs, decoder_input_ids=inputs["input_ids"]).logits.tolist(),
    }
model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
model.save_pretrained(second)
again = AutoModel.from_pretrained(second, trust_remote_code=True)
answer["again"] = again.generate(**inputs, max_new_tokens=6).tolist()
lines = []
exec(open(card, encoding="utf-8").read(), {"print": lambda text: lines.append(str(text))})
answer["card"] = lines
print(json.dumps(answer))
"""


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> tuple[Path, BahdanauForConditionalGeneration]:
    torch.manual_seed(0)
    config = BahdanauConfig(
        vocab_size=13,
        embedding_size=5,
        hidden_size=7,
        encoder_layers=2,
        decoder_layers=2,
        readout="deep",
    )
    model = decisive(BahdanauForConditionalGeneration(config).eval())
    folder = tmp_path_factory.mktemp("checkpoint")
    model.save_pretrained(folder)
    return folder, model


def inputs() -> dict[str, torch.Tensor]:
    return {name: x.clamp(max=12) for name, x in source("left").items()}


def code_files(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*.py")}


def test_exactly_the_travelling_files_are_written(saved) -> None:
    folder, _ = saved
    travelling = {path.name for path in MODELING.glob("*_bahdanau.py")}
    assert code_files(folder) == travelling
    for name in travelling:
        assert (folder / name).read_bytes() == (MODELING / name).read_bytes()
    rest = {path.name for path in folder.iterdir()} - travelling
    assert rest == {"config.json", "generation_config.json", "model.safetensors"}


def test_the_configuration_alone_brings_its_code(tmp_path) -> None:
    BahdanauConfig().save_pretrained(tmp_path)
    assert "configuration_bahdanau.py" in code_files(tmp_path)


def test_auto_map_is_written(saved) -> None:
    folder, _ = saved
    written = json.loads((folder / "config.json").read_text())
    assert written["auto_map"] == BahdanauConfig().auto_map
    (task,) = written["custom_pipelines"].items()
    module, _, name = task[1]["impl"].partition(".")
    assert task[0] == "translation"
    assert name in (folder / f"{module}.py").read_text()


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForSeq2SeqLM])
@pytest.mark.parametrize("trust", [None, False, True])
def test_with_the_package_no_flag_is_needed(saved, auto, trust) -> None:
    folder, model = saved
    assert type(AutoConfig.from_pretrained(folder)) is BahdanauConfig
    loaded = auto.from_pretrained(folder, trust_remote_code=trust)
    assert type(loaded) is BahdanauForConditionalGeneration
    expected = model.generate(**inputs(), max_new_tokens=6).tolist()
    assert loaded.generate(**inputs(), max_new_tokens=6).tolist() == expected


@pytest.fixture(scope="module")
def code_on_the_card(tmp_path_factory) -> list[str]:
    """What a release's card shows: with the package and without it."""
    release = make_checkpoint(tmp_path_factory.mktemp("release") / "tea-model")
    text = write_model_card(release).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    return [block.replace(REPO_PLACEHOLDER, str(release)) for block in blocks]


@pytest.fixture(scope="module")
def answer(saved, code_on_the_card, tmp_path_factory) -> dict[str, Any]:
    """What a fresh process says that knows the libraries, the folder and a card alone."""
    folder, _ = saved
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (folder / "inputs.json").write_text(json.dumps({k: x.tolist() for k, x in inputs().items()}))
    environment = {
        **os.environ,
        "HF_HOME": str(elsewhere / "home"),
        "HF_MODULES_CACHE": str(elsewhere / "modules"),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    second, card = elsewhere / "second", elsewhere / "card.py"
    card.write_text(code_on_the_card[1], encoding="utf-8")
    done = subprocess.run(
        as_stranger(STRANGER, folder, second, card),
        cwd=elsewhere,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    (folder / "inputs.json").unlink()
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    result["second"] = code_files(second)
    return result


@pytest.mark.parametrize("auto", ["AutoModel", "AutoModelForSeq2SeqLM"])
def test_a_stranger_generates_the_same(saved, answer, auto) -> None:
    _, model = saved
    result = answer[auto]
    assert result["class"] == "BahdanauForConditionalGeneration"
    assert result["module"].startswith("transformers_modules.")
    assert result["greedy"] == model.generate(**inputs(), max_new_tokens=6).tolist()
    beams = model.generate(**inputs(), max_new_tokens=6, num_beams=3)
    assert result["beams"] == beams.tolist()
    with torch.no_grad():
        logits = model(**inputs(), decoder_input_ids=inputs()["input_ids"]).logits
    torch.testing.assert_close(torch.tensor(result["logits"]), logits, rtol=1e-4, atol=1e-5)


def test_a_stranger_is_asked_to_trust(answer) -> None:
    assert answer["config"] == "BahdanauConfig"
    assert "trust_remote_code=True" in answer["refused"]


def test_a_stranger_can_train_save_and_load_again(answer) -> None:
    assert answer["second"] == {path.name for path in MODELING.glob("*_bahdanau.py")}
    assert answer["again"] == answer["AutoModel"]["greedy"]


def test_code_on_the_card_runs_without_the_package(answer) -> None:
    assert answer["card"][-2:] == ["车站在哪里？", "['车站在哪里？']"]


def test_code_on_the_card_runs_with_the_package(code_on_the_card) -> None:
    lines: list[str] = []
    exec(code_on_the_card[0], {"print": lines.append})
    assert lines == ["车站在哪里？"]
