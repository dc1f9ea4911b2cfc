"""Flags that cannot be meant: each gets one line, and what it names instead is the right thing."""

from typing import Any

import pytest

from bahdanau_hf import InputError
from bahdanau_hf.training.arguments import FIELDS, parse_arguments
from bahdanau_hf.training.refusals import _ELSEWHERE, suggestion

# Names of other programs, and of typing errors; nothing where nothing is near.
MEANT = {
    **{"fp16": "--precision fp16", "bf16": "--precision bf16", "mixed_precision": "'precision'"},
    **{"do_train": "always trains", "do_eval": "always", "predict_with_generate": "always"},
    **{"evaluation_strategy": "--eval_steps N", "eval_strategy": "each epoch"},
    **{"save_strategy": "--save_steps N", "checkpointing_steps": "--save_steps N"},
    "batch_size": "'per_device_train_batch_size' or 'per_device_eval_batch_size'",
    "per_device_batch_size": "'per_device_train_batch_size' or 'per_device_eval_batch_size'",
    "train_batch_size": "'per_device_train_batch_size'",
    "per_gpu_train_batch_size": "'per_device_train_batch_size'",
    **{"lr": "--learning_rate", "learning_rat": "'learning_rate'", "optim": "--optimizer"},
    **{"epochs": "'num_train_epochs'", "num_epochs": "'num_train_epochs'"},
    **{"max_steps": "'max_train_steps'", "warmup_steps": "'num_warmup_steps'"},
    **{"warmup_ratio": "--num_warmup_steps", "lr_scheduler": "'lr_scheduler_type'"},
    **{"gradient_checkpointing": "lower --per_device_train_batch_size", "data_seed": "'seed'"},
    **{"label_smoothing": "'label_smoothing_factor'", "patience": "'early_stopping_patience'"},
    **{"max_length": "--max_source_length and --max_target_length", "seeds": "'seed'"},
    **{"beams": "'num_beams' or 'eval_num_beams'", "beam_size": "--num_beams"},
    **{"src_lang": "--source_lang", "tgt_lang": "--target_lang", "data_path": "--train_file"},
    **{"model": "--model_name_or_path", "model_name": "'model_name_or_path'"},
    **{"d_model": "--hidden_size", "num_layers": "--encoder_layers and --decoder_layers"},
    **{"dropout_rate": "'dropout'", "clip_grad_norm": "--max_grad_norm"},
    **{"with_tracking": "--report_to", "deepspeed": "accelerate launch", "cpu": "accelerate"},
    **{"trust_remote_code": "no code", "cache_dir": "HF_HOME", "logging_dir": "--output_dir"},
    **{"frobnicate": "", "size": "", "x": ""},
}


@pytest.mark.parametrize("name", MEANT)
def test_a_flag_of_another_program_is_told_what_it_is_here(name: str) -> None:
    with pytest.raises(InputError) as error:
        parse_arguments(["tiny", f"--{name}=1"])
    start, _, hint = str(error.value).partition(". " if MEANT[name] else ".")
    assert start == f"unknown argument '--{name}=1'"
    assert MEANT[name] in hint
    assert bool(hint) == bool(MEANT[name])


def test_what_is_advised_exists() -> None:
    for names, advice in _ELSEWHERE.items():
        flags = [word.strip(",;:().").removeprefix("--") for word in advice.split() if "--" in word]
        assert set(flags) <= FIELDS.keys(), names
        assert not FIELDS.keys() & set(names.split()), "it is a flag here"


def test_keys_of_a_recipe_get_the_same_hints(tmp_path: Any) -> None:
    recipe = tmp_path / "mine.yaml"
    recipe.write_text("lr: 0.1\n")
    with pytest.raises(InputError, match=r"unknown key 'lr' in .*Take --learning_rate$"):
        parse_arguments([str(recipe)])
    assert suggestion("learning_rate_", FIELDS) == " Did you mean 'learning_rate'?"


REFUSED = {
    "--dropout=1": r"--dropout must be in \[0, 1\), not 1",
    "--adam_beta1=1.5": r"--adam_beta1 must be in \[0, 1\), not 1.5",
    "--length_penalty=nan --num_beams=2": "--length_penalty must be a finite number, not nan",
    "--learning_rate=nan": "--learning_rate must be greater than 0, not nan",
    "--average_last_checkpoints=1": "must be 0 or at least 2, not 1",
    "--target_lang=en": "both 'en'",
    "--dataset_name=x --train_file=y": "--dataset_name or --train_file, not both",
    "--test_file=x": "need --train_file",
    "--resume_from_checkpoint=latest --overwrite_output_dir": "not both",
    "--model_name_or_path=x --tokenizer_name=y --extend_vocabulary": "not both",
    "--streaming": "--streaming needs --max_train_steps",
    "--source_kind=char": "--source_kind char and --target_kind bpe do not go together",
    "--tokenizer_kind=char --lowercase_source": "without --tokenizer_kind bpe",
    "--tokenizer_kind=word-char --lowercase_source=no": "word-char lowercases all text",
    # What would have no effect.
    "--max_train_steps=9 --num_train_epochs=3": "--num_train_epochs .* with --max_train_steps:",
    "--max_tokens_per_batch=99 --per_device_train_batch_size=3": "with --max_tokens_per_batch:",
    "--num_warmup_steps=3 --lr_scheduler_type=constant": r"\(constant_with_warmup has it\)",
    "--length_penalty=2": "--length_penalty has no effect with --num_beams 1",
    "--hub_private_repo": "without --push_to_hub",
    "--hub_token=hf_x": "without --push_to_hub",
    "--model_revision=v1": "without a repository of the Hub",
    "--model_revision=v1 --model_name_or_path=.": "without a repository of the Hub",
    "--extend_vocabulary": "without --model_name_or_path",
    "--dataset_config_name=en-zh": "without --dataset_name",
    "--dataset_license=mit": "on the bundled pairs",
    "--train_file=x --validation_file=y --validation_split_percentage=9": "--validation_file:",
    "--tokenizer_kind=word-char --vocab_size=900": "without --tokenizer_kind bpe",
    "--mix_ratio=1": "without --mix_file",
    "--mix_ratio=0 --mix_file=x": "--mix_ratio must be greater than 0",
    "--source_noise=1": r"--source_noise must be in \[0, 1\)",
    "--mix_file=x --streaming --max_train_steps=9": "--mix_file needs all pairs at once",
    "adapt": "^this recipe needs --model_name_or_path$",
    "--shuffle_buffer_size=9": "without --streaming",
    "--streaming --max_train_steps=9 --preprocessing_num_workers=2": "with --streaming",
    "--use_attention=no --attention_dropout=0.1": "on a model without attention",
    "--use_attention=no --attention_hidden_size=9": "on a model without attention",
    "--readout_size=9": "without --readout deep",
    "--dropout=0.5": "with one layer on each side, as it acts between layers",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_or_has_no_effect_is_refused(line: str) -> None:
    with pytest.raises(InputError, match=REFUSED[line]) as error:
        parse_arguments(line.split())
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        # What is off already may be said.
        *("--max_train_steps=9", "--dropout=0", "--attention_dropout=0 --use_attention=no"),
        *("--num_warmup_steps=0 --lr_scheduler_type=constant", "--length_penalty=2 --num_beams=2"),
        *("--dropout=0.5 --decoder_layers=2", "--hub_private_repo=no", "--report_to=none"),
        "--streaming --max_train_steps=9 --shuffle_buffer_size=9",
    ],
)
def test_what_has_an_effect_or_asks_for_none_is_taken(line: str) -> None:
    parse_arguments(line.split())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("tiny", {"num_train_epochs": 11, "max_train_steps": None}),
        ("tiny --max_train_steps=9", {"num_train_epochs": 10, "max_train_steps": 9}),
        ("base", {"max_tokens_per_batch": 1500}),
        (
            "base --per_device_train_batch_size=9",
            {"max_tokens_per_batch": None, "per_device_train_batch_size": 9},
        ),
        # A value of the recipe gives way to a flag that leaves it without effect.
        ("base --tokenizer_kind=word-char", {"vocab_size": 8000}),
        ("tutorial --use_attention=no", {"attention_dropout": 0.1}),
    ],
)
def test_a_flag_takes_the_place_of_what_the_recipe_says_otherwise(
    line: str, expected: dict[str, Any]
) -> None:
    settings = parse_arguments(line.split())
    found = {name: getattr(settings.group_of(name), name) for name in expected}
    assert found == expected
    flags = {word.lstrip("-").partition("=")[0] for word in line.split()[1:]}
    for group in settings:
        assert group.by_flag == flags
        assert not group.by_recipe & flags
    assert "learning_rate" in settings.model.by_recipe
