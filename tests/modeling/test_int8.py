"""Decoding in 8 bits: close to float32, the same whatever the batch, refused where it cannot be."""

import copy
import inspect
from pathlib import Path

import pytest
import torch

from bahdanau_hf import InputError
from bahdanau_hf.cli import main
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.modeling.matmul_bahdanau import Int8Product
from bahdanau_hf.modeling.processor_bahdanau import processor
from tests.helpers.batches import SOURCES, batch, source
from tests.helpers.decisive_model import decisive, wide_model
from tests.helpers.pretences import pretending
from tests.helpers.tiny_checkpoint import PAIRS, SENTENCES

pytestmark = pytest.mark.skipif(not processor().int8, reason="PyTorch has no 8-bit products here")


# The model


@pytest.mark.parametrize("num_beams", [1, 3])
def test_every_kind_of_model(model, num_beams, monkeypatch) -> None:
    """Its first word is as likely as the exact one, up to 8 bits; and 8-bit products were taken."""
    decisive(model)
    options = {**source(), "max_new_tokens": 1}
    exact = model.generate(**options, return_dict_in_generate=True, output_logits=True).logits[0]
    calls, multiply = [], Int8Product._multiply
    monkeypatch.setattr(
        Int8Product,
        "_multiply",
        lambda product, x: calls.append(len(x)) or multiply(product, x),
    )
    output = model.use_int8().generate(**options, num_beams=num_beams)
    assert calls
    chosen = exact.gather(1, output[:, 1:2])[:, 0]
    assert (chosen >= exact.amax(1) - 0.15 * exact.abs().amax(1)).all()


def test_annotations_are_close() -> None:
    model = wide_model()
    inputs = source()
    with torch.no_grad():
        exact = model.model.encoder(**inputs).last_hidden_state
        rounded = model.use_int8().model.encoder(**inputs).last_hidden_state
    error = (exact - rounded).norm() / exact.norm()
    assert 1e-4 < error < 0.03


@pytest.mark.parametrize("changes", [{}, {"readout": "deep", "conditional_gru": True}], ids=str)
@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_sentence_does_not_see_its_batch(num_beams, changes) -> None:
    model = wide_model(**changes).use_int8()
    options = {"num_beams": num_beams, "max_new_tokens": 8}
    together = model.generate(**source(), **options)
    for row, words in zip(together.tolist(), SOURCES, strict=True):
        alone = model.generate(torch.tensor([words]), **options)[0].tolist()
        end = alone.index(2, 1) + 1 if 2 in alone[1:] else len(alone)
        assert row[:end] == alone[:end]


def test_the_weights_stay_and_it_can_be_ended() -> None:
    model = wide_model()
    expected = model.generate(**source(), max_new_tokens=8)
    before = copy.deepcopy(model.state_dict())
    model.use_int8().generate(**source(), max_new_tokens=8)
    assert all(torch.equal(x, before[name]) for name, x in model.state_dict().items())
    assert torch.equal(model.use_int8(False).generate(**source(), max_new_tokens=8), expected)


def test_where_it_cannot_be(tmp_path: Path) -> None:
    model = wide_model()
    with pytest.raises(ValueError, match="eval"):
        model.train().use_int8()
    assert not model.int8
    model.eval().use_int8()
    with pytest.raises(ValueError, match="use_int8"):
        model.train()
    with pytest.raises(ValueError, match="not saved"):
        model.save_pretrained(tmp_path)
    generate = inspect.unwrap(type(model).generate)  # without its no_grad
    with pytest.raises(ValueError, match="outside of training"):
        generate(model, **source(), max_new_tokens=8)
    with pytest.raises(ValueError, match="CPU"):
        wide_model().to("meta").use_int8()
    with pretending(int8=False), pytest.raises(ValueError, match="FBGEMM"):
        model.use_int8()
    assert not (tmp_path / "model.safetensors").exists()
    loss = model.use_int8(False).train()(**batch()).loss
    loss.backward()


# The translator and the command


def test_translator(checkpoint: Path) -> None:
    translator = Translator.from_pretrained(checkpoint, dtype="int8")
    assert translator.model.int8
    assert translator.model.dtype == torch.float32
    sources, targets = zip(*PAIRS, strict=True)
    assert [t.text for t in translator.translate(sources)] == list(targets)
    assert [t.text for t in translator.translate(sources, num_beams=3)] == list(targets)
    alone = [translator.translate(sentence)[0].text for sentence in SENTENCES]
    assert [t.text for t in translator.translate(SENTENCES)] == alone
    best, _ = translator.translate(sources[0], num_beams=2, num_return_sequences=2)[0]
    assert best.text == targets[0]
    assert translator.align(sources[0]).weights.shape[0] > 1
    back = Translator(translator.model, translator.tokenizer, dtype="float32")
    assert not back.model.int8


def test_commands(checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"{s}\t{t}\n" for s, t in PAIRS), encoding="utf-8")
    arguments = ["score", "--model", str(checkpoint), "--test_file", str(pairs)]
    assert main([*arguments, "--dtype", "int8"]) == 0
    assert '"dtype": "int8"' in capfd.readouterr().out
    arguments = ["translate", "--model", str(checkpoint), "--dtype", "int8", "--device", "meta"]
    assert main(arguments) == 2
    error = capfd.readouterr().err
    assert "cannot run in int8: " in error
    assert error.count("\n") == 1


def test_a_mistake_is_the_users(checkpoint: Path) -> None:
    with pytest.raises(InputError, match="take auto, float32, bfloat16, float16 or int8"):
        Translator.from_pretrained(checkpoint, dtype="int4")
