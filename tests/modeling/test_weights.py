"""Weights: how they begin, how they are saved and loaded, shared, and resized."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.testing import assert_close
from transformers import AutoModel, AutoModelForSeq2SeqLM

from bahdanau_hf import BahdanauForConditionalGeneration, BahdanauModel
from bahdanau_hf.modeling.configuration_bahdanau import INITIALIZERS
from tests.helpers.batches import CLOSE, batch
from tests.helpers.tiny_model import VARIANTS


def fresh(tiny_config, **changes) -> BahdanauForConditionalGeneration:
    return BahdanauForConditionalGeneration(tiny_config(**changes))


# How they begin


def layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    kinds = nn.Linear | nn.GRU | nn.GRUCell | nn.Embedding
    return [(name, module) for name, module in model.named_modules() if isinstance(module, kinds)]


@pytest.mark.parametrize("initializer", INITIALIZERS)
def test_initial_values_are_as_documented(tiny_config, initializer) -> None:
    """The table in `_init_weights`, line by line, at a size where chance averages out."""
    model = fresh(
        tiny_config,
        embedding_size=60,
        hidden_size=70,
        attention_hidden_size=50,
        vocab_size=400,
        encoder_vocab_size=500,
        encoder_layers=2,
        decoder_layers=2,
        readout="deep",
        initializer=initializer,
        initializer_range=0.5,
        embedding_initializer_range=0.3,
    )
    for name, module in layers(model):
        for parameter_name, x in module.named_parameters(recurse=False):
            what = f"{name}.{parameter_name}"
            if isinstance(module, nn.Embedding):
                assert_close(x.std().item(), 0.3, rtol=0.03, atol=0, msg=what)
                assert abs(x.mean()) < 0.01, what
            elif "bias" in parameter_name:
                fan = module.in_features if isinstance(module, nn.Linear) else 70
                bound = 0.5 / math.sqrt(fan) if initializer != "orthogonal" else 0.0
                assert x.abs().max() <= bound, what
                assert x.abs().max() >= 0.8 * bound, what
            elif "weight_hh" in parameter_name and initializer == "orthogonal":
                for gate in x.chunk(3):
                    assert_close(gate @ gate.t(), 0.25 * torch.eye(70), rtol=0, atol=1e-5, msg=what)
            else:
                bound = 0.5 * math.sqrt(6 / sum(x.shape))
                if initializer == "tutorial" and isinstance(module, nn.Linear):
                    bound = 0.5 / math.sqrt(module.in_features)
                assert x.abs().max() <= bound, what
                luck = 0.03 + 2 / math.sqrt(x.numel())
                assert_close(x.std().item(), bound / math.sqrt(3), rtol=luck, atol=0, msg=what)


def test_ranges_of_zero_leave_nothing(model) -> None:
    """What the library's suite asks: with ranges of next to nothing every weight is 0 or 1."""
    config = model.config
    config.initializer_range = config.embedding_initializer_range = 1e-10
    for name, parameter in BahdanauForConditionalGeneration(config).named_parameters():
        assert parameter.abs().max() < 1e-8, name


@pytest.mark.parametrize("initializer", INITIALIZERS)
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.grid
def test_weights_missing_at_loading_are_made_new(tmp_path, tiny_config, initializer, name) -> None:
    """All of them: no parameter is left as the memory was, and present ones are not touched."""
    model = fresh(tiny_config, **VARIANTS[name], initializer=initializer)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = load_file(path)
    for missing in whole:
        save_file({k: v for k, v in whole.items() if k != missing}, path, {"format": "pt"})
        loaded, report = BahdanauForConditionalGeneration.from_pretrained(
            tmp_path, output_loading_info=True
        )
        gone = {missing}
        if model.config.tie_word_embeddings and missing == "model.decoder.embed_tokens.weight":
            gone |= {"lm_head.weight"}
        assert set(report["missing_keys"]) == gone
        for key, x in loaded.state_dict().items():
            assert torch.isfinite(x).all(), key
            same = torch.equal(x, model.state_dict()[key])
            if key not in gone:
                assert same, f"{key} changed when {missing} was missing"
            elif "bias" not in key:
                assert not same, key


def test_all_weights_missing(tiny_config, variant) -> None:
    model = BahdanauForConditionalGeneration.from_pretrained(
        None, config=tiny_config(**variant), state_dict={}
    )
    for name, x in model.named_parameters():
        assert not x.is_meta, name
        assert torch.isfinite(x).all(), name
        assert 0 < x.abs().max() < 6, name


def test_making_a_model_draws_the_same_weights_again(tiny_config, variant) -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(fresh(tiny_config, **variant).state_dict())
    assert all(torch.equal(x, models[1][name]) for name, x in models[0].items())


def test_no_buffer_and_no_stray_tensor(model) -> None:
    assert not dict(model.named_buffers())
    for module in model.modules():
        assert not [k for k, v in vars(module).items() if isinstance(v, torch.Tensor)]


# Saving and loading


@pytest.mark.parametrize(
    "auto", [BahdanauForConditionalGeneration, AutoModel, AutoModelForSeq2SeqLM]
)
@pytest.mark.grid
def test_saved_and_loaded(tmp_path, model, auto) -> None:
    model.save_pretrained(tmp_path)
    loaded, report = auto.from_pretrained(tmp_path, output_loading_info=True, dtype=torch.float64)
    assert type(loaded) is BahdanauForConditionalGeneration
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert not loaded.training
    for name, x in loaded.state_dict().items():
        assert torch.equal(x, model.state_dict()[name]), name
    assert_close(loaded(**batch()).logits, model(**batch()).logits, **CLOSE)


def test_saved_type_is_kept(tmp_path, tiny_model) -> None:
    tiny_model().bfloat16().save_pretrained(tmp_path)
    loaded = BahdanauForConditionalGeneration.from_pretrained(tmp_path)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}


def test_inner_model_loads_from_the_whole(tmp_path, tiny_model) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path)
    inner = BahdanauModel.from_pretrained(tmp_path, dtype=torch.float64)
    for name, x in inner.state_dict().items():
        assert torch.equal(x, model.model.state_dict()[name]), name


def test_the_whole_takes_over_an_inner_model(tmp_path, tiny_model) -> None:
    inner = tiny_model().model
    inner.save_pretrained(tmp_path)
    whole = BahdanauForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64)
    for name, x in whole.model.state_dict().items():
        assert torch.equal(x, inner.state_dict()[name]), name


def test_wrong_sizes_are_refused(tmp_path, tiny_model) -> None:
    tiny_model().save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        BahdanauForConditionalGeneration.from_pretrained(tmp_path, vocab_size=11)
    loaded = BahdanauForConditionalGeneration.from_pretrained(
        tmp_path, vocab_size=11, ignore_mismatched_sizes=True
    )
    assert loaded.lm_head.out_features == 11
    assert all(torch.isfinite(x).all() for x in loaded.parameters())


def test_made_on_the_meta_device(tiny_config, variant) -> None:
    with torch.device("meta"):
        model = fresh(tiny_config, **variant)
    assert all(x.is_meta for x in model.parameters())
    given = {name: x.to("meta") for name, x in batch().items()}
    for enabled in (True, False):
        with torch.set_grad_enabled(enabled):
            assert model(**given).logits.shape == (4, given["labels"].shape[1], 13)


# Shared weights


def test_tied_weights_are_one(tmp_path, tiny_model) -> None:
    model = tiny_model(readout="deep", tie_word_embeddings=True)
    table = model.model.decoder.embed_tokens
    assert model.lm_head.weight is table.weight
    assert model.get_input_embeddings().weight is not table.weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(**batch()).loss.backward()
    optimizer.step()
    assert model.lm_head.weight is table.weight
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert "model.decoder.embed_tokens.weight" in saved
    assert "lm_head.weight" not in saved
    loaded = BahdanauForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64)
    assert loaded.lm_head.weight is loaded.model.decoder.embed_tokens.weight
    assert_close(loaded(**batch()).logits, model(**batch()).logits, **CLOSE)


def test_weights_are_not_tied_by_themselves(tiny_model) -> None:
    model = tiny_model(readout="deep")
    assert model.lm_head.weight is not model.model.decoder.embed_tokens.weight
    assert model.all_tied_weights_keys == {}


# Resizing


@pytest.mark.parametrize("size", [30, 17, 14, 13, 9])
@pytest.mark.parametrize("tied", [True, False])
def test_resizing_covers_both_sides(tmp_path, tiny_model, size, tied) -> None:
    model = tiny_model(readout="deep", tie_word_embeddings=tied)
    before = {name: x.clone() for name, x in model.state_dict().items()}
    table = model.resize_token_embeddings(size)
    assert table is model.get_input_embeddings()
    decoder_table = model.model.decoder.embed_tokens
    assert table.num_embeddings == decoder_table.num_embeddings == size
    assert model.lm_head.weight.shape == (size, 5)
    assert model.lm_head.bias.shape == (size,)
    assert (model.lm_head.weight is decoder_table.weight) == tied
    assert (model.config.vocab_size, model.config.encoder_vocab_size) == (size, None)
    after = model.state_dict()
    for name, x in before.items():
        rows = min(len(x), len(after[name]))
        assert torch.equal(after[name][:rows], x[:rows]), name
        assert torch.isfinite(after[name]).all(), name
    ids = torch.tensor([[size - 1, 2]])
    assert model(ids, labels=ids).logits.shape[-1] == size
    model.save_pretrained(tmp_path)
    loaded = BahdanauForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64)
    assert_close(loaded(ids, labels=ids).logits, model(ids, labels=ids).logits, **CLOSE)


def test_resizing_to_nothing_in_particular(tiny_model) -> None:
    model = tiny_model()
    assert model.resize_token_embeddings() is model.get_input_embeddings()
    assert (model.config.vocab_size, model.config.encoder_vocab_size) == (13, 17)
    model.resize_token_embeddings(pad_to_multiple_of=8)
    assert model.get_input_embeddings().num_embeddings == 24
    assert model.model.decoder.embed_tokens.num_embeddings == 24
    assert model.lm_head.out_features == 24
    assert model.config.vocab_size == 24


def test_resizing_with_a_multiple(tiny_model) -> None:
    model = tiny_model()
    model.resize_token_embeddings(20, pad_to_multiple_of=16)
    shapes = {model.get_input_embeddings().num_embeddings, model.lm_head.out_features}
    assert shapes == {32}
    with pytest.raises(ValueError, match="not and integer"):
        model.resize_token_embeddings(20, pad_to_multiple_of=1.3)


def test_resizing_an_inner_model(tiny_model) -> None:
    inner = tiny_model().model
    inner.resize_token_embeddings(21)
    assert inner.encoder.embed_tokens.num_embeddings == 21
    assert inner.decoder.embed_tokens.num_embeddings == 21
    assert inner.config.vocab_size == 21


def test_resizing_keeps_frozen_tables_frozen(tiny_model) -> None:
    model = tiny_model()
    model.model.decoder.embed_tokens.weight.requires_grad_(False)
    model.resize_token_embeddings(21)
    assert not model.model.decoder.embed_tokens.weight.requires_grad
    assert model.get_input_embeddings().weight.requires_grad
    model(**batch()).loss.backward()


def test_generating_after_resizing(tiny_model) -> None:
    model = tiny_model()
    model.resize_token_embeddings(31)
    outputs = model.generate(
        torch.tensor([[30, 2]]),
        max_new_tokens=4,
        num_beams=3,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert outputs.scores[0].shape[-1] == 31
    model.compute_transition_scores(outputs.sequences, outputs.scores, outputs.beam_indices)


def test_saved_configuration_names_the_class(tmp_path, tiny_model) -> None:
    tiny_model().save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["architectures"] == ["BahdanauForConditionalGeneration"]
