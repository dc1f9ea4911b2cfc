"""The configuration: defaults, round trips, refusals, and what the library asks of it."""

import copy
import json
from typing import Any

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from bahdanau_hf import BahdanauConfig


def test_defaults_make_a_model_of_the_paper() -> None:
    config = BahdanauConfig()
    assert config.model_type == "bahdanau"
    assert config.is_encoder_decoder
    assert config.bidirectional_encoder
    assert config.use_attention
    assert not config.encoder_reads_padding
    ids = (config.pad_token_id, config.bos_token_id, config.eos_token_id, config.unk_token_id)
    assert ids == (0, 1, 2, 3)
    assert config.decoder_start_token_id == config.bos_token_id


def test_names_that_the_library_asks_for() -> None:
    config = BahdanauConfig(hidden_size=12, encoder_layers=3, decoder_layers=2, vocab_size=50)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (12, 2, 50)
    assert config.num_attention_heads == 1
    assert BahdanauConfig(num_hidden_layers=4).decoder_layers == 4
    assert config.get_text_config() is config
    assert config.get_text_config(decoder=True).vocab_size == 50
    assert config.get_text_config(decoder=True).num_hidden_layers == 2
    assert "past_key_values" in config.keys_to_ignore_at_inference


def test_encoder_view_knows_the_whole_vocabulary() -> None:
    config = BahdanauConfig(vocab_size=50, encoder_vocab_size=80)
    assert config.get_text_config(encoder=True).vocab_size == 80


@pytest.mark.parametrize(
    ("changes", "output_size", "annotation_size"),
    [
        ({"bidirectional_encoder": False}, 7, 7),
        ({}, 7, 14),
        ({"readout": "deep"}, 5, 14),
        ({"readout": "deep", "readout_size": 9}, 9, 14),
    ],
)
def test_derived_sizes(tiny_config, changes, output_size, annotation_size) -> None:
    config = tiny_config(**changes)
    assert (config.output_size, config.annotation_size) == (output_size, annotation_size)


def test_derived_sizes_follow_later_changes(tiny_config) -> None:
    config = tiny_config(readout="deep")
    config.embedding_size = 11
    config.bidirectional_encoder = False
    assert (config.output_size, config.annotation_size) == (11, 7)


def contents(config: BahdanauConfig) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if key != "_name_or_path"}


def test_round_trips(tmp_path, variant, tiny_config) -> None:
    config = tiny_config(**variant)
    config.save_pretrained(tmp_path / "a")
    config.save_pretrained(tmp_path / "b" / "inner")
    loaded = [
        BahdanauConfig.from_pretrained(tmp_path / "a"),
        AutoConfig.from_pretrained(tmp_path / "a"),
        BahdanauConfig.from_pretrained(tmp_path / "b", subfolder="inner"),
        BahdanauConfig.from_dict(config.to_dict()),
        copy.deepcopy(config),
    ]
    for other in loaded:
        assert type(other) is BahdanauConfig
        assert contents(other) == contents(config)
    written = json.loads((tmp_path / "a" / "config.json").read_text())
    assert {key: written[key] for key in variant} == variant
    assert written["model_type"] == "bahdanau"
    assert "num_attention_heads" not in written


def test_auto_map_names_the_class_that_generates(tiny_config) -> None:
    assert tiny_config().auto_map == {
        "AutoConfig": "configuration_bahdanau.BahdanauConfig",
        "AutoModel": "modeling_bahdanau.BahdanauForConditionalGeneration",
        "AutoModelForSeq2SeqLM": "modeling_bahdanau.BahdanauForConditionalGeneration",
    }


def test_auto_map_of_a_hub_checkpoint_does_not_stay(tiny_config) -> None:
    foreign = {"AutoConfig": "someone/else--configuration_bahdanau.BahdanauConfig"}
    assert tiny_config(auto_map=foreign).auto_map == tiny_config().auto_map


def test_general_keywords_of_the_library() -> None:
    config = BahdanauConfig(
        return_dict=False,
        output_hidden_states=True,
        output_attentions=True,
        dtype="float16",
        num_labels=5,
        problem_type="regression",
    )
    assert config.return_dict is False
    assert config.output_hidden_states
    assert config.output_attentions
    assert config.dtype == torch.float16
    assert len(config.id2label) == 5


def test_no_warning_on_the_defaults(caplog) -> None:
    BahdanauConfig()
    assert caplog.text == ""


def test_zero_rates_may_be_integers(tiny_config) -> None:
    assert tiny_config(dropout=0, attention_dropout=0, initializer_range=1).dropout == 0


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"vocab_size": 0}, "vocab_size must be at least 1, not 0"),
    ({"encoder_vocab_size": 0}, "encoder_vocab_size must be at least 1"),
    ({"embedding_size": -3}, "embedding_size must be at least 1, not -3"),
    ({"hidden_size": 0}, "hidden_size must be at least 1"),
    ({"attention_hidden_size": 0}, "attention_hidden_size must be at least 1"),
    ({"encoder_layers": 0}, "encoder_layers must be at least 1"),
    ({"decoder_layers": 0}, "decoder_layers must be at least 1"),
    ({"readout": "deep", "readout_size": 0}, "readout_size must be at least 1"),
    ({"dropout": 1.0}, r"dropout must be in \[0, 1\), not 1.0"),
    ({"dropout": float("nan")}, r"dropout must be in \[0, 1\)"),
    ({"embedding_dropout": -0.1}, r"embedding_dropout must be in \[0, 1\)"),
    ({"readout_dropout": 7}, r"readout_dropout must be in \[0, 1\)"),
    ({"attention_dropout": 1.5}, r"attention_dropout must be in \[0, 1\)"),
    ({"initializer_range": -1.0}, "initializer_range must be a finite number"),
    ({"embedding_initializer_range": float("inf")}, "embedding_initializer_range must be a finite"),
    ({"readout": "wide"}, "readout must be one of linear, deep, not 'wide'"),
    ({"initializer": "zeros"}, "initializer must be one of xavier, tutorial, orthogonal"),
    ({"encoder_vocab_size": 12}, r"encoder_vocab_size \(12\) must be at least vocab_size \(13\)"),
    (
        {"bidirectional_encoder": False, "encoder_layers": 2},
        "a one-directional encoder of 2 layers cannot start a decoder of 1",
    ),
    ({"conditional_gru": True, "decoder_layers": 2}, "decoder_layers 1, not True and 2: set c"),
    ({"conditional_gru": True, "use_attention": False}, "decoder_layers 1, not False and 1: set"),
    ({"readout_size": 9}, 'readout_size belongs to readout="deep"'),
    ({"tie_word_embeddings": True}, r"reads embedding_size \(5\) values, but it reads 7"),
    ({"readout": "deep", "readout_size": 9, "tie_word_embeddings": True}, "but it reads 9"),
    ({"pad_token_id": -1}, "pad_token_id must not be negative, but is -1"),
    ({"decoder_start_token_id": -2}, "decoder_start_token_id must not be negative"),
    ({"hidden_size": "wide"}, "hidden_size"),
    ({"vocab_size": None}, "vocab_size"),
    ({"bidirectional_encoder": "yes"}, "bidirectional_encoder"),
    ({"hidden_size": 7.5}, "hidden_size"),
]


@pytest.mark.parametrize(
    ("changes", "message"), REFUSED, ids=lambda x: None if isinstance(x, str) else "-".join(x)
)
def test_refusals_say_what_is_wrong(tiny_config, changes, message) -> None:
    with pytest.raises(StrictDataclassError, match=message) as error:
        tiny_config(**changes)
    assert isinstance(error.value.__cause__, ValueError | TypeError)
    assert "\n" not in str(error.value.__cause__)


def test_types_are_checked_on_assignment(tiny_config) -> None:
    config = tiny_config()
    with pytest.raises(StrictDataclassError, match="expected int, got str"):
        config.hidden_size = "wide"


def test_a_broken_file_is_refused(tmp_path, tiny_config) -> None:
    tiny_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"hidden_size": 7', '"hidden_size": -7'))
    with pytest.raises(StrictDataclassError, match="hidden_size must be at least 1"):
        BahdanauConfig.from_pretrained(tmp_path)


def test_generation_settings_do_not_belong_here(tiny_config) -> None:
    assert not hasattr(tiny_config(num_beams=4), "num_beams")
