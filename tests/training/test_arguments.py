"""Every field of the arguments: it changes something in a run, or is refused.

A new field belongs into `EFFECTS`: an argument that does nothing is a wrong answer.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState
from datasets import Dataset

from bahdanau_hf import InputError
from bahdanau_hf.checkpoints.run_folder import list_checkpoints
from bahdanau_hf.checkpoints.save_load import TrainerState
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.training import setup
from bahdanau_hf.training.arguments import FIELDS
from bahdanau_hf.training.loop import decide
from bahdanau_hf.training.release import save_release
from bahdanau_hf.training.run import Run
from bahdanau_hf.training.step import StepDone, take_step
from tests.helpers.places import PAIRS
from tests.helpers.tiny_run import prepare, train_script

BPE = {"tokenizer_kind": "bpe", "vocab_size": 300}
DEEP = {"readout": "deep", "readout_size": 8}
BEAMS = {"num_beams": 2}
PUSHED = {"push_to_hub": True, "hub_token": "hf_x"}
STREAM = {"streaming": True, "validation_file": PAIRS, "shuffle_buffer_size": 20}
FILES = {"validation_file": PAIRS, "test_file": PAIRS}
BUNDLED = {
    **{"train_file": None, "validation_split_percentage": None},
    **{"max_train_samples": 40, "max_eval_samples": 9},
}
# Stands for folders that a test makes.
MODEL, FOLDER, OTHER = "<model>", "<data>", "<other>"
SPLITS, BAD, ENTITIES = "<splits>", "<bad>", "<entities>"
ON_MODEL = {"model_name_or_path": MODEL}
ON_OTHER_TEXT = {**ON_MODEL, "train_file": OTHER}

ON_SPLITS = {**BUNDLED, "dataset_name": SPLITS}

# Of each field: a value, and what must be given besides.
EFFECTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "model_name_or_path": (MODEL, {}),
    "tokenizer_name": (MODEL, {"train_file": OTHER}),
    "model_revision": ("v1", ON_MODEL),
    "embedding_size": (8, {}),
    "hidden_size": (8, {}),
    "attention_hidden_size": (5, {}),
    "encoder_layers": (1, {"decoder_layers": 2}),
    "decoder_layers": (2, {}),
    "bidirectional_encoder": (False, {"decoder_layers": 2}),
    "use_attention": (False, {"attention_dropout": 0}),
    "conditional_gru": (True, {}),
    "readout": ("deep", {}),
    "readout_size": (5, DEEP),
    "dropout": (0.3, {}),
    "embedding_dropout": (0.3, {}),
    "readout_dropout": (0.3, {}),
    "attention_dropout": (0.3, {}),
    "tie_word_embeddings": (True, {**DEEP, "readout_size": 7}),
    "encoder_reads_padding": (True, {}),
    "initializer": ("orthogonal", {}),
    "embedding_initializer_range": (0.5, {}),
    "dataset_name": (FOLDER, BUNDLED),
    "dataset_config_name": ("other", {**BUNDLED, "dataset_name": FOLDER}),
    "dataset_license": ("mit", {}),
    "train_file": (OTHER, {}),
    "validation_file": (PAIRS, {}),
    "test_file": (PAIRS, {}),
    "mix_file": (OTHER, {}),
    "mix_ratio": (0.25, {"mix_file": OTHER}),
    "encoding": ("latin-1", {}),
    "skip_bad_rows": (True, {"train_file": BAD}),
    "unescape_html": (True, {"train_file": ENTITIES}),
    "train_split": ("test", ON_SPLITS),
    "validation_split": ("test", ON_SPLITS),
    "test_split": ("validation", ON_SPLITS),
    "source_column": ("2", {}),
    "target_column": ("1", {}),
    "streaming": (True, FILES),
    "source_lang": ("fr", {}),
    "target_lang": ("fr", {}),
    "chinese_script": ("traditional", {}),
    "max_source_length": (5, {}),
    "max_target_length": (5, {}),
    "truncate_long_pairs": (True, {"max_target_length": 5}),
    "max_length_ratio": (4.0, {}),
    "max_train_samples": (20, {}),
    "max_eval_samples": (3, {}),
    "validation_split_percentage": (40, {}),
    "preprocessing_num_workers": (2, {}),
    "tokenizer_kind": ("bpe", {}),
    "source_kind": ("char", {}),
    "target_kind": ("word", {}),
    "vocab_size": (280, BPE),
    "min_frequency": (3, {}),
    "lowercase_source": (True, BPE),
    "extend_vocabulary": (True, ON_OTHER_TEXT),
    "max_tokens_per_batch": (50, {}),
    "bucket_by_length": (False, {}),
    "shuffle_buffer_size": (15, STREAM),
    "pad_to_max_length": (True, {}),
    "output_dir": (OTHER, {}),
    "overwrite_output_dir": (True, {}),
    "resume_from_checkpoint": ("/no/such", {}),
    "seed": (12, {}),
    "per_device_train_batch_size": (4, {}),
    "per_device_eval_batch_size": (5, {}),
    "gradient_accumulation_steps": (2, {}),
    "precision": ("bf16", {}),
    "num_train_epochs": (3, {}),
    "max_train_steps": (5, {}),
    "max_train_seconds": (1e-9, {}),
    "learning_rate": (0.5, {}),
    "optimizer": ("adam", {}),
    "weight_decay": (0.1, {}),
    "adam_beta1": (0.8, {}),
    "adam_beta2": (0.8, {}),
    "adam_epsilon": (0.1, {}),
    "max_grad_norm": (0.001, {}),
    "lr_scheduler_type": ("cosine", {}),
    "num_warmup_steps": (2, {}),
    "label_smoothing_factor": (0.1, {}),
    "guided_attention_weight": (0.5, {}),
    "source_noise": (0.5, {}),
    "loss_reduction": ("tutorial", {}),
    "logging_steps": (3, {}),
    "eval_steps": (3, {}),
    "save_steps": (3, {}),
    "save_total_limit": (1, {}),
    "metric_for_best_model": ("loss", {}),
    "early_stopping_patience": (3, {}),
    "average_last_checkpoints": (2, {"save_steps": 9}),
    "num_beams": (2, {}),
    "eval_num_beams": (2, {}),
    "length_penalty": (2, BEAMS),
    "max_eval_translations": (2, {}),
    "dataloader_num_workers": (1, {}),
    "skip_test": (True, {"test_file": PAIRS, "max_train_steps": 1}),
    "report_to": ("tensorboard", {}),
    "push_to_hub": (True, {}),
    "hub_model_id": ("me/other", PUSHED),
    "hub_private_repo": (True, PUSHED),
    "hub_token": ("hf_y", PUSHED),
}


@pytest.fixture(autouse=True)
def nothing_is_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Accelerate keeps one precision for a whole process; nobody is logged in."""
    monkeypatch.setattr(setup, "get_token", lambda: None)
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of the tiny run's shape, other pairs, and a data set of one configuration."""
    folder = tmp_path_factory.mktemp("places")
    model = prepare(folder / "run", seed=3).save()
    lines = PAIRS.read_text(encoding="utf-8").splitlines(keepends=True)
    other = folder / "other.tsv"
    other.write_text("".join(lines[:40]) + "Zebras yawn.\t斑马打哈欠。\n" * 2, encoding="utf-8")
    (folder / "data").mkdir()
    rows = [dict(zip(("en", "zh"), line.strip().split("\t"), strict=True)) for line in lines[1:]]
    train = folder / "data" / "train.jsonl"
    train.write_text("".join(json.dumps({"translation": row}) + "\n" for row in rows))
    (folder / "splits").mkdir()
    for name, own in (("train", rows[:40]), ("validation", rows[40:48]), ("test", rows[48:])):
        text = "".join(json.dumps(row) + "\n" for row in own)
        (folder / "splits" / f"{name}.jsonl").write_text(text)
    bad, entities = folder / "bad.tsv", folder / "entities.tsv"
    bad.write_text("".join([*lines, "three\tcells\there\n"]), encoding="utf-8")
    entities.write_text(
        "".join([*lines, "Tom &amp; Mary ran.\t汤姆和玛丽跑了。\n"]), encoding="utf-8"
    )
    found = {MODEL: model, OTHER: other, FOLDER: folder / "data", SPLITS: folder / "splits"}
    return {**found, BAD: bad, ENTITIES: entities}


def traces(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, changes: Any) -> Any:
    """What a run does and decides that was told these changes; the refusal, if it is refused."""
    asked: list[Any] = []
    map_rows, translate = Dataset.map, Translator.translate

    def note_map(dataset: Dataset, *arguments: Any, **options: Any) -> Any:
        asked.append(options.get("num_proc"))
        return map_rows(dataset, *arguments, **{**options, "num_proc": None})

    def note_translate(translator: Translator, texts: Any, **options: Any) -> Any:
        asked.append((translator.batch_size, len(texts), options))
        return translate(translator, texts, **options)

    AcceleratorState._reset_state(reset_partial_state=True)
    with monkeypatch.context() as patch:
        patch.setattr(Dataset, "map", note_map)
        patch.setattr(Translator, "translate", note_translate)
        if name == "overwrite_output_dir":
            (folder / "config.json").write_text("{}")
        if name == "skip_test":
            assert train_script(folder, **changes) == 0
            return sorted(json.loads((folder / "eval_results.json").read_text()))
        try:
            run = prepare(folder, **changes)
        except InputError as error:
            return str(error).replace(str(folder), "")
        if name == "dataset_license":
            run.start_records()
            save_release(run)
            return (folder / "README.md").read_text(encoding="utf-8")
        if name == "save_total_limit":
            for run.state.step in range(5):
                run.save()
            return list(list_checkpoints(folder))
        return [_of_run(run), asked]


def _of_run(run: Run) -> dict[str, Any]:
    """Model, data, optimizer, decisions, and what a step and a validation come to."""
    found: dict[str, Any] = {
        "folder": run.output_dir.name,
        "config": run.bare_model.config.to_dict(),
        "search": run.bare_model.generation_config.to_dict(),
        "tokenizer": run.tokenizer.backend_tokenizer.to_str(),
        "lengths": run.tokenizer.model_max_length,
        "splits": {
            name: hashlib.sha256(str(list(split)).encode()).hexdigest()
            for name, split in run.pairs.texts.items()
            if isinstance(split, Dataset)
        },
        "total": run.total_steps,
        "precision": run.accelerator.mixed_precision,
        "workers": getattr(getattr(run.batches, "loader", None), "num_workers", None),
        "trackers": run.accelerator.log_with,
        "optimizer": [
            type(run.optimizer.optimizer),
            [{**g, "params": len(g["params"])} for g in run.optimizer.param_groups],
        ],
        "pushes": run.pushes and [run.pushes.repo_id, run.pushes.private, run.pushes.token],
        "ranking": run.ranking({"eval_loss": 2.0, "eval_bleu": 7.0}),
    }
    accumulated = run.accelerator.gradient_accumulation_steps
    steps = run.batches.steps(TrainerState(), accumulated)
    batches = [batches for batches, _ in itertools.islice(steps, 2)]
    found["batches"] = [{k: v.tolist() for k, v in b.items()} for group in batches for b in group]
    run.start_clock()
    found["measured"] = run.measure()
    torch.manual_seed(0)  # of dropout
    done = take_step(run, batches[0])
    weights = [float(p.double().sum()) for p in run.bare_model.parameters()]
    moments = [float(m.double().sum()) for s in run.optimizer.state.values() for m in s.values()]
    found["step"] = [done.loss_sum, weights, moments]
    found["rates"] = []
    for _ in range(3):
        run.optimizer.optimizer.step()
        run.scheduler.step()
        found["rates"].append(run.scheduler.get_last_lr())
    found["decisions"] = []
    for step in range(1, 6):
        run.state.step, run.state.validations_without_gain = step, step
        reasons = frozenset(["out of time"] if run.is_late else [])
        control = decide(run, StepDone(1.0, 1, 1.0, reasons, 0.1), ends_epoch=step == 2)
        found["decisions"].append([vars(control), run.state.finished])
    return found


def test_the_table_has_every_field() -> None:
    assert EFFECTS.keys() == FIELDS.keys()


@pytest.mark.parametrize("name", EFFECTS)
def test_a_field_has_an_effect_or_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: dict[str, Path]
) -> None:
    value, besides = EFFECTS[name]
    before, after = dict(besides), {**besides, name: value}
    if name == "num_train_epochs":  # the tiny run is told its steps
        before = {name: 1}
    folders = [tmp_path / "0" / "run", tmp_path / "1" / "run"]
    if name == "output_dir":
        folders[1] = tmp_path / "1" / after.pop(name)
    found = []
    for folder, changes in zip(folders, (before, after), strict=True):
        folder.mkdir(parents=True)
        known = {k: places.get(v, v) if isinstance(v, str) else v for k, v in changes.items()}
        found.append(traces(folder, monkeypatch, name, known))
    assert found[0] != found[1]
    told = ("overwrite_output_dir", "dataset_license", "skip_bad_rows")
    assert not isinstance(found[0], str) or name in told


@pytest.mark.parametrize("name", ["seed", "dataset_license", "save_total_limit"])
def test_equal_runs_leave_equal_traces(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the test above could not fail."""
    found = []
    for number in ("0", "1"):
        folder = tmp_path / number / "run"
        folder.mkdir(parents=True)
        found.append(traces(folder, monkeypatch, name, {}))
    assert found[0] == found[1]


# --- what is written down ------------------------------------------------------------------------

RECORDED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "defaults": (
        {},
        {
            **{"precision": "no", "eval_num_beams": 1, "attention_hidden_size": 9, "seed": 11},
            # Without effect here.
            **{"readout_size": None, "num_train_epochs": None, "length_penalty": None},
            **{"shuffle_buffer_size": None, "model_revision": None, "lowercase_source": True},
            "validation_split_percentage": 20,
        },
    ),
    "one layer": ({"encoder_layers": 1, "dropout": None}, {"dropout": None}),
    "auto": ({"precision": "auto"}, {"precision": "no"}),
    "given validation": ({"validation_file": PAIRS}, {"validation_split_percentage": None}),
    "by tokens": (
        {"max_tokens_per_batch": 90},
        {"max_tokens_per_batch": 90, "per_device_train_batch_size": None},
    ),
    "loaded": (
        # Of what is not said, the model's counts.
        {
            **{"model_name_or_path": MODEL, "hidden_size": None, "embedding_size": None},
            **{"tokenizer_kind": None, "min_frequency": None, "encoder_layers": None},
            **{"dropout": None, "attention_dropout": 0.7},
        },
        {
            **{"hidden_size": 9, "embedding_size": 7, "encoder_layers": 2, "dropout": 0.2},
            **{"tokenizer_kind": "word-char", "min_frequency": 1, "attention_dropout": 0.7},
        },
    ),
}


@pytest.mark.parametrize("case", RECORDED)
def test_settings_say_what_was_used(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: dict[str, Path]
) -> None:
    monkeypatch.setattr(setup.precision, "fastest_dtype", lambda device: torch.float32)
    changes, expected = RECORDED[case]
    known = {k: places.get(v, v) if isinstance(v, str) else v for k, v in changes.items()}
    run = prepare(tmp_path, **known)
    run.start_records()
    settings = json.loads((tmp_path / "settings.json").read_text())
    used = settings["model"] | settings["data"] | settings["train"]
    assert used.keys() == FIELDS.keys() - {"hub_token"}
    assert {name: used[name] for name in expected} == expected
    assert used["vocab_size"] == len(run.tokenizer)
    config = run.bare_model.config
    for name in ("hidden_size", "embedding_dropout", "attention_dropout", "initializer"):
        assert used[name] == getattr(config, name)
