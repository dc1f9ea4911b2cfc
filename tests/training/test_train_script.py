"""`bahdanau_hf.train` from its arguments to what it leaves behind, and its answers to mistakes."""

import csv
import json
import re
import tempfile
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from bahdanau_hf import BahdanauForConditionalGeneration, InputError
from bahdanau_hf.data.tokenization import load_tokenizer
from bahdanau_hf.hub.push import release_files
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.metrics.translation import score_translations, sentence_scores
from bahdanau_hf.training.arguments import parse_arguments
from bahdanau_hf.training.run import Run
from tests.helpers.places import PAIRS, RECIPES
from tests.helpers.tiny_run import TINY, logged, train_script


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has come to its end."""
    folder = tmp_path_factory.mktemp("finished")
    assert train_script(folder, test_file=PAIRS, num_beams=2, weight_decay=0.5) == 0
    return folder


# --- what a run leaves ---------------------------------------------------------------------------


def test_output_dir_is_a_complete_checkpoint(finished: Path) -> None:
    model = AutoModelForSeq2SeqLM.from_pretrained(finished)
    tokenizer = AutoTokenizer.from_pretrained(finished)
    assert isinstance(model, BahdanauForConditionalGeneration)
    settings = model.generation_config
    assert (settings.num_beams, settings.max_new_tokens) == (2, TINY["max_target_length"])
    assert (settings.decoder_start_token_id, settings.eos_token_id) == (1, 2)
    inputs = tokenizer(["Good morning.", "Good night, Mum."], padding=True, return_tensors="pt")
    assert tokenizer.batch_decode(model.generate(**inputs), skip_special_tokens=True)
    for name in ("report.html", "README.md", "alignment.svg", "modeling_bahdanau.py"):
        assert (finished / name).stat().st_size > 0, name
    assert not [path for path in finished.iterdir() if path.name.startswith(".")]


def test_final_weights_are_those_of_the_best_checkpoint(finished: Path) -> None:
    results = json.loads((finished / "eval_results.json").read_text())
    assert results["weights"] == f"checkpoint-{results['best_step']}"
    expected = load_file(finished / results["weights"] / "model.safetensors")
    actual = load_file(finished / "model.safetensors")
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_scores_are_those_of_the_predictions_and_these_the_models(finished: Path) -> None:
    results = json.loads((finished / "eval_results.json").read_text())
    with (finished / "test_predictions.tsv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    assert list(rows[0]) == ["source", "reference", "hypothesis", "sentence_bleu"]
    lines = PAIRS.read_text(encoding="utf-8").splitlines()[1:]
    assert [f"{row['source']}\t{row['reference']}" for row in rows] == lines
    hypotheses = [row["hypothesis"] for row in rows]
    references = [row["reference"] for row in rows]
    scores = score_translations(hypotheses, references)
    assert results["test"]["bleu"] == pytest.approx(scores.bleu)
    assert results["test"]["chrf"] == pytest.approx(scores.chrf)
    assert results["test"]["bleu_signature"] == scores.bleu_signature
    assert results["test"]["num_sentences"] == len(rows) == 64
    expected = [f"{score:.2f}" for score in sentence_scores(hypotheses, references)]
    assert [row["sentence_bleu"] for row in rows] == expected
    again = Translator.from_pretrained(finished).translate([row["source"] for row in rows])
    assert [translation.text for translation in again] == hypotheses


def test_settings_and_log(finished: Path) -> None:
    settings = json.loads((finished / "settings.json").read_text())
    assert settings["train"]["weight_decay"] == 0.5
    assert settings["data"]["train_file"] == str(PAIRS)
    assert settings["versions"]["torch"] == version("torch")
    model = BahdanauForConditionalGeneration.from_pretrained(finished)
    assert settings["num_parameters"] == model.num_parameters()
    counts = settings["num_pairs"]
    assert counts["train"] + counts["validation"] == counts["test"] == 64
    lines = logged(finished)
    keys = {"step", "epoch", "loss", "learning_rate", "grad_norm"}
    assert all(set(line) == keys for line in lines if "loss" in line)
    evaluated = {"step", "epoch", "eval_loss", "eval_bleu", "eval_chrf"}
    assert set(lines[-1]) == evaluated


def test_alignments_are_of_sentences_of_the_split(finished: Path) -> None:
    alignments = json.loads((finished / "alignments.json").read_text(encoding="utf-8"))
    assert 1 <= len(alignments) <= 12
    for alignment in alignments:
        assert len(alignment["weights"]) == len(alignment["target_tokens"])
        for row in alignment["weights"]:
            assert len(row) == len(alignment["source_tokens"])
            assert sum(row) == pytest.approx(1, abs=0.01)


def test_it_prints_counts_scores_with_signatures_and_translations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_script(tmp_path / "run", test_file=PAIRS, max_train_steps=1) == 0
    printed = capsys.readouterr().out
    assert re.search(r"read +64 +64\n", printed)
    assert re.search(r"BLEU +\d+\.\d\d +nrefs:1\|case:mixed\|eff:no\|tok:zh", printed)
    assert printed.count("    translation ") == printed.count("    reference ") == 8


def test_what_a_stream_has_dropped_is_told_at_the_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / "long.tsv"
    long.write_text(PAIRS.read_text(encoding="utf-8") + "word " * 99 + "\t字\n", encoding="utf-8")
    changes = {"train_file": long, "validation_file": PAIRS, "shuffle_buffer_size": 100}
    assert train_script(tmp_path / "run", streaming=True, **changes) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line]
    columns = next(row for row in rows if row[0] == "train")
    read = next(row for row in rows if row[0] == "read")
    unequal = next(row for row in rows if row[0] == "unequal")
    assert columns == ["train", "validation"]
    # The stream goes round: every pass reads the long pair, its last, and drops it.
    passes = int(unequal[-2])
    assert passes >= 1
    assert int(read[1]) >= passes * 65


def test_a_finished_run_says_so(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (finished / "eval_results.json").stat().st_mtime_ns
    changes = {"test_file": PAIRS, "num_beams": 2, "weight_decay": 0.5}
    assert train_script(finished, resume_from_checkpoint="latest", **changes) == 0
    message = capsys.readouterr().err
    assert "is finished: all 4 steps were taken" in message
    assert "--max_train_steps" in message
    assert (finished / "eval_results.json").stat().st_mtime_ns == before


def test_scores_that_a_crash_has_cost_are_made_on_resuming(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert train_script(folder, test_file=PAIRS) == 0
    expected = (folder / "test_predictions.tsv").read_bytes()
    for name in ("eval_results.json", "test_predictions.tsv", "model.safetensors"):
        (folder / name).unlink()
    assert train_script(folder, test_file=PAIRS, resume_from_checkpoint="latest") == 0
    assert (folder / "test_predictions.tsv").read_bytes() == expected
    assert (folder / "eval_results.json").is_file()


def test_publishing_on_the_way_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Step 1 is long on its way, so 2 is left out; 3 fails; the end waits, and comes last."""
    pushed: list[tuple[Any, ...]] = []
    arrives = threading.Event()

    def push(pushed_folder: Path, name: str, **options: Any) -> str:
        card = (pushed_folder / "README.md").read_text(encoding="utf-8")
        scores = json.loads((pushed_folder / "eval_results.json").read_text())
        pushed.append((name, set(release_files(pushed_folder)), options, card, scores))
        if options["message"] == "Step 1":
            assert arrives.wait(60)
        if options["message"] == "Step 3":
            raise InputError("the Hub is asleep")
        return "https://hub/commit"

    def measure(run: Run) -> dict[str, float]:
        if run.state.step == 3:
            assert run.pushes is not None
            assert run.pushes.is_busy, "training went on meanwhile"
            arrives.set()
            run.pushes.wait()
        return {"eval_loss": 3.0, "eval_bleu": run.state.step / 8, "eval_chrf": 0.0}

    monkeypatch.setattr("bahdanau_hf.hub.push.push_folder", push)
    monkeypatch.setattr("bahdanau_hf.training.release.push_folder", push)
    opened: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(
        "bahdanau_hf.training.release.open_repository",
        lambda name, **kw: opened.append((name, kw)),
    )
    monkeypatch.setattr(Run, "measure", measure)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "outside"))
    (tmp_path / "outside").mkdir()
    caplog.set_level("INFO", logger="bahdanau_hf")
    changes = {"hub_model_id": "me/mine", "hub_token": "hf_secret", "hub_private_repo": True}
    folder = tmp_path / "run"
    assert train_script(folder, push_to_hub=True, eval_steps=1, test_file=PAIRS, **changes) == 0
    assert opened == [("me/mine", {"private": True, "token": "hf_secret"})]
    names, files, options, cards, scores = zip(*pushed, strict=True)
    assert [option["message"] for option in options] == ["Step 1", "Step 3", "Step 4"]
    assert set(names) == {"me/mine"}
    assert all(option["token"] == "hf_secret" and option["private"] for option in options)
    for path in folder.rglob("*"):
        assert path.is_dir() or b"hf_secret" not in path.read_bytes(), path
    # Each is as complete as the last, and states its own scores.
    assert files[0] == files[1] == files[2] == set(release_files(folder))
    assert {"eval_results.json", "alignment.svg"} <= files[0]
    assert [score["validation"]["bleu"] for score in scores[:2]] == [1 / 8, 3 / 8]
    assert all("# mine\n" in card and "tok:zh" in card for card in cards)
    assert "step 3" in cards[1]
    assert "Step 2 is not published: the last push is still on its way" in caplog.text
    assert "Step 3 was not published: the Hub is asleep" in caplog.text
    assert not any((tmp_path / "outside").iterdir()), "what was pushed is removed"


def test_a_run_that_may_not_push_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(name: str, **options: Any) -> None:
        raise InputError(f"cannot push to {name}: the token may not write there")

    monkeypatch.setattr("bahdanau_hf.training.release.open_repository", refuse)
    assert train_script(tmp_path / "mine", push_to_hub=True, hub_token="hf_x") == 2
    assert "error: cannot push to mine: the token may not" in capsys.readouterr().err
    assert not list((tmp_path / "mine").iterdir())


def test_going_on_from_a_model(finished: Path, tmp_path: Path) -> None:
    changes = {"model_name_or_path": finished, "max_train_steps": 1, "learning_rate": 1e-12}
    assert train_script(tmp_path / "run", **changes) == 0
    expected = load_file(finished / "model.safetensors")
    actual = load_file(tmp_path / "run" / "model.safetensors")
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=1e-9)
    old, new = load_tokenizer(finished), load_tokenizer(tmp_path / "run")
    assert old.get_vocab() == new.get_vocab()


def test_without_attention_there_are_no_maps(tmp_path: Path) -> None:
    changes = {"use_attention": False, "attention_dropout": 0}
    assert train_script(tmp_path / "run", max_train_steps=1, **changes) == 0
    assert not (tmp_path / "run" / "alignments.json").exists()
    assert (tmp_path / "run" / "eval_results.json").is_file()


def test_bundled_pairs_are_the_default_and_either_direction_works(tmp_path: Path) -> None:
    changes = {
        "train_file": None,
        "validation_split_percentage": None,
        "max_train_samples": 100,
        "max_eval_samples": 9,
        "max_train_steps": 1,
        "source_lang": "zh",
        "target_lang": "en",
    }
    assert train_script(tmp_path / "run", **changes) == 0
    results = json.loads((tmp_path / "run" / "eval_results.json").read_text())
    assert "tok:13a" in results["test"]["bleu_signature"]


# --- mistakes ------------------------------------------------------------------------------------


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown flag": ({"learning_rat": 1}, "Did you mean 'learning_rate'"),
    "no number": ({"seed": "x"}, "seed"),
    "missing file": ({"train_file": "/no/such.tsv"}, "/no/such.tsv"),
    "one language": ({"target_lang": "en"}, "both 'en'"),
    "dropout of 1": ({"dropout": 1}, r"dropout must be in \[0, 1\), not 1"),
    "layers": ({"bidirectional_encoder": False}, "one-directional encoder of 2 layers"),
    "width of a tie": ({"tie_word_embeddings": True}, "tie_word_embeddings needs"),
    "no model": ({"model_name_or_path": "/no/model"}, "no such folder: ./no/model"),
    "no tokenizer": ({"tokenizer_name": "/no/tokenizer"}, "no such folder: '/no/tokenizer'"),
    "too short": ({"max_target_length": 1}, "no training pair is short enough"),
    "batch too small": ({"max_tokens_per_batch": 3}, "--max_tokens_per_batch 3"),
    "warm-up": ({"num_warmup_steps": 5, "lr_scheduler_type": "constant"}, "constant_with_warmup"),
    "tracker unknown": ({"report_to": "abacus"}, "abacus.*none"),
    "tracker absent": ({"report_to": "comet_ml"}, "comet_ml"),
    "stream with workers": ({"streaming": True, "dataloader_num_workers": 2}, "workers"),
    "validation is there": ({"train_file": None, "max_train_samples": 9}, "come with a validation"),
    "no token": ({"push_to_hub": True}, "hf auth login"),
}


@pytest.mark.parametrize(("changes", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_gets_one_line_and_status_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setattr("bahdanau_hf.training.setup.get_token", lambda: None)
    assert train_script(tmp_path / "run", **changes) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert re.search(message, error[0]), error[0]


def test_a_folder_that_is_in_use(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in finished.iterdir()}
    assert train_script(finished) == 2
    assert "--overwrite_output_dir" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in finished.iterdir()} == before


def test_a_tokenizer_that_does_not_belong_to_the_model(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_script(tmp_path / "other", max_train_samples=30, max_train_steps=1) == 0
    changes = {"model_name_or_path": finished, "tokenizer_name": tmp_path / "other"}
    assert train_script(tmp_path / "run", **changes) == 2
    assert "the tokenizer does not belong to the model" in capsys.readouterr().err


def test_a_foreign_checkpoint(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    (tmp_path / "config.json").write_text('{"model_type": "marian"}')
    assert train_script(tmp_path / "run", model_name_or_path=tmp_path) == 2
    assert "'marian'" in capsys.readouterr().err


def test_the_loss_is_no_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {"learning_rate": 3e38, "optimizer": "adam", "max_grad_norm": 0, "eval_steps": 100}
    assert train_script(tmp_path / "run", **changes) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert re.fullmatch(r"error: step \d+: the (loss|gradient) is (nan|inf)\..*", error)


# --- recipes -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.stem)
def test_recipes_are_understood(path: Path) -> None:
    needed = ["--model_name_or_path=runs/mine"] if path.stem == "adapt" else []
    _, _, train_args = parse_arguments([path.stem, *needed])
    assert parse_arguments([str(path), *needed])[2] == train_args
    assert train_args.output_dir == f"runs/{path.stem}"


def test_the_tutorials_recipe_is_the_tutorials() -> None:
    model, data, train_args = parse_arguments(["tutorial"])
    shape = (model.embedding_size, model.hidden_size, model.encoder_layers, model.decoder_layers)
    assert shape == (32, 32, 2, 2)
    assert (model.dropout, model.attention_dropout, model.readout) == (0.1, 0.1, "linear")
    assert (model.bidirectional_encoder, model.encoder_reads_padding) == (False, True)
    assert (data.tokenizer_kind, data.min_frequency) == ("word-char", 2)
    assert (data.max_source_length, data.max_target_length) == (10, 10)
    assert (data.pad_to_max_length, data.truncate_long_pairs) == (True, True)
    assert (train_args.per_device_train_batch_size, train_args.learning_rate) == (64, 0.005)
    assert (train_args.optimizer, train_args.lr_scheduler_type) == ("adam", "constant")
    assert (train_args.max_grad_norm, train_args.num_train_epochs) == (1.0, 2000)
    assert (model.initializer, train_args.loss_reduction) == ("tutorial", "tutorial")
