"""Checkpoints are whole, safe to read and belong to their run; the run's folder is looked after."""

import json
import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from bahdanau_hf import BahdanauForConditionalGeneration, InputError
from bahdanau_hf.checkpoints.run_folder import (
    cut_metrics,
    find_checkpoint,
    is_plain_name,
    list_checkpoints,
    log_metrics,
    move_files,
    prepare_output_dir,
    remove,
    remove_checkpoint,
    remove_checkpoints,
    seal_checkpoint,
    set_aside_later,
    share_files,
    verify_checkpoint,
    write_json,
)
from bahdanau_hf.checkpoints.save_load import (
    check_identity,
    load_weights,
    mean_weights,
    random_state,
    set_random_state,
)
from bahdanau_hf.data.tokenization import load_tokenizer
from bahdanau_hf.distributed import on_main_process
from tests.helpers.tiny_run import prepare

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the checkpoints of steps 2 and 10, before any training."""
    folder = tmp_path_factory.mktemp("run")
    run = prepare(folder)
    for step in (2, 10):
        run.state.step = step
        run.save()
    return folder


@pytest.fixture
def run_folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(saved, tmp_path / "run"))


# --- what is in a checkpoint ---------------------------------------------------------------------


def test_a_checkpoint_is_a_model_and_holds_nothing_that_can_run(saved: Path) -> None:
    folder = saved / "checkpoint-10"
    model = BahdanauForConditionalGeneration.from_pretrained(folder)
    assert len(load_tokenizer(folder)) == model.config.encoder_vocab_size
    manifest = json.loads((folder / "manifest.json").read_text())
    names = {path.name for path in folder.iterdir()}
    assert names == set(manifest["files"]) | {"manifest.json"}
    # Code is the model's own, for who loads it without the package; the rest is data.
    code = {name for name in names if name.endswith(".py")}
    assert all(name.endswith("_bahdanau.py") for name in code)
    assert {Path(name).suffix for name in names - code} == {".json", ".safetensors"}
    assert {"optimizer.safetensors", "rng_state_0.safetensors", "trainer_state.json"} <= names


def test_weights_are_as_readable_as_the_configuration(saved: Path) -> None:
    folder = saved / "checkpoint-2"
    modes = {path.stat().st_mode for path in folder.iterdir() if path.suffix != ".py"}
    assert len(modes) == 1


def test_a_crash_in_the_middle_of_saving_leaves_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(tmp_path)
    run.save()
    run.state.step = 1

    def fail(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bahdanau_hf.checkpoints.save_load.seal_checkpoint", fail)
    with pytest.raises(InputError, match=r"cannot write .*/checkpoint-1: No space left on device"):
        run.save()
    assert not list(tmp_path.glob(".*"))  # what would only fill the disk
    assert list(list_checkpoints(tmp_path)) == [0]
    monkeypatch.undo()
    assert find_checkpoint(tmp_path, "latest") == tmp_path / "checkpoint-0"
    run.save()  # what is left of the attempt is not in the way
    assert find_checkpoint(tmp_path, "latest") == tmp_path / "checkpoint-1"


def test_the_same_step_can_be_saved_again(tmp_path: Path) -> None:
    run = prepare(tmp_path)
    run.save()
    with torch.no_grad():
        run.bare_model.lm_head.bias.fill_(7)
    run.save()
    assert list(list_checkpoints(tmp_path)) == [0]
    weights = load_file(find_checkpoint(tmp_path, "latest") / "model.safetensors")
    assert weights["lm_head.bias"].unique().tolist() == [7]


# --- finding and verifying -----------------------------------------------------------------------


def damage_truncate(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def damage_bit(folder: Path) -> None:
    path = folder / "optimizer.safetensors" if (folder / "optimizer.safetensors").exists() else None
    path = folder / "model.safetensors" if path is None else path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def damage_missing(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def damage_format(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))


DAMAGES = {
    damage_truncate: "model.safetensors is not as it was written",
    damage_bit: "is not as it was written",
    damage_missing: "tokenizer.json is missing",
    damage_manifest: "manifest.json is missing or unreadable",
    damage_format: "format 99",
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.items())
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(
    run_folder: Path, damage: Any, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    damage(run_folder / "checkpoint-10")
    with pytest.raises(InputError, match=message) as error:
        find_checkpoint(run_folder, str(run_folder / "checkpoint-10"))
    assert "\n" not in str(error.value)
    assert find_checkpoint(run_folder, "latest") == run_folder / "checkpoint-2"
    assert "checkpoint-10" in caplog.text
    damage(run_folder / "checkpoint-2")
    with pytest.raises(InputError, match=r"no checkpoint .* is whole"):
        find_checkpoint(run_folder, "latest")


def test_the_newest_checkpoint_is_the_one_of_the_highest_step(saved: Path) -> None:
    assert list(list_checkpoints(saved)) == [2, 10]
    assert find_checkpoint(saved, "latest") == saved / "checkpoint-10"


def test_nothing_to_resume_from(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no checkpoint .* to resume from"):
        find_checkpoint(tmp_path, "latest")
    with pytest.raises(InputError, match="there is no checkpoint"):
        find_checkpoint(tmp_path, str(tmp_path / "checkpoint-7"))
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="--model_name_or_path"):
        find_checkpoint(tmp_path, str(tmp_path / "model"))


# --- the same run --------------------------------------------------------------------------------


def test_identity_names_every_difference(tmp_path: Path) -> None:
    saved = {
        "world_size": 1,
        "data_fingerprints": {"train": "a", "validation": "c"},
        "recipe": {"seed": 1, "hidden_size": 8, "dropout": 0.1, "gone": 3},
    }
    check_identity(saved, json.loads(json.dumps(saved)), tmp_path)
    later = {"conditional_gru": False, "source_noise": 0.0, "encoding": None}
    check_identity(saved, {**saved, "recipe": saved["recipe"] | later}, tmp_path)
    now = {
        "world_size": 2,
        "data_fingerprints": {"train": "b", "validation": "c"},
        "recipe": {"seed": 2, "hidden_size": 8, "dropout": 0, "conditional_gru": True},
    }
    with pytest.raises(InputError) as error:
        check_identity(saved, now, tmp_path)
    for words in (
        *("1 processes then, 2 now", "the train pairs are not the same", "seed was 1, is 2"),
        *("gone was 3, is None", "conditional_gru was None, is True", "dropout was 0.1, is 0"),
        "--model_name_or_path",
    ):
        assert words in str(error.value)
    assert "hidden_size" not in str(error.value)
    assert "\n" not in str(error.value)


CHANGES = {
    "learning_rate": 0.5,
    "per_device_train_batch_size": 3,
    "gradient_accumulation_steps": 2,
    "hidden_size": 8,
    "dropout": 0.3,
    "seed": 12,
    "max_tokens_per_batch": 99,
    "label_smoothing_factor": 0.1,
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_recipe_is_refused(run_folder: Path, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} was .*, is {CHANGES[name]}"):
        prepare(run_folder, resume_from_checkpoint="latest", **{name: CHANGES[name]})


def test_changed_pairs_are_refused(run_folder: Path, tmp_path: Path, pairs_file: Path) -> None:
    lines = pairs_file.read_text(encoding="utf-8").splitlines(keepends=True)
    changed = tmp_path / "changed.tsv"
    for line, split in ((1, "train"), (-1, "validation")):
        rest = [text for i, text in enumerate(lines) if i != line % len(lines)]
        changed.write_text("".join(rest), encoding="utf-8")
        with pytest.raises(InputError, match=f"from .*: the {split} pairs are not the same. Rest"):
            prepare(run_folder, resume_from_checkpoint="latest", train_file=changed)
    # The same pairs in another place are the same.
    moved = tmp_path / "moved.tsv"
    moved.write_text("".join(lines), encoding="utf-8")
    assert prepare(run_folder, resume_from_checkpoint="latest", train_file=moved).state.step == 10


def test_how_long_and_how_often_may_change(run_folder: Path) -> None:
    run = prepare(
        run_folder,
        resume_from_checkpoint="latest",
        max_train_steps=50,
        eval_steps=7,
        save_total_limit=9,
        early_stopping_patience=3,
    )
    assert (run.state.step, run.total_steps) == (10, 50)


def test_going_back_sets_later_checkpoints_aside(run_folder: Path) -> None:
    log_metrics(run_folder, {"step": 2, "loss": 1.0})
    log_metrics(run_folder, {"step": 3, "loss": 1.0})
    prepare(run_folder, resume_from_checkpoint=run_folder / "checkpoint-2")
    assert list(list_checkpoints(run_folder)) == [2]
    verify_checkpoint(run_folder / "checkpoint-10.abandoned")
    assert (run_folder / "metrics.jsonl").read_text() == '{"step": 2, "loss": 1.0}\n'
    assert find_checkpoint(run_folder, "latest") == run_folder / "checkpoint-2"


def test_optimizer_of_a_tied_model_comes_back(tmp_path: Path) -> None:
    changes = {"tie_word_embeddings": True, "readout": "deep", "readout_size": 7}
    run = prepare(tmp_path, **changes)
    for parameter in run.bare_model.parameters():
        parameter.grad = torch.rand_like(parameter)
    run.optimizer.step()
    run.state.step = 1
    run.save()
    again = prepare(tmp_path, **changes, resume_from_checkpoint="latest")
    for name, tensor in run.bare_model.state_dict().items():
        assert torch.equal(again.bare_model.state_dict()[name], tensor), name
    before, after = (r.optimizer.optimizer.state_dict()["state"] for r in (run, again))
    assert before.keys() == after.keys()
    for index, values in before.items():
        assert all(torch.equal(after[index][key], value) for key, value in values.items())


def test_moments_stand_in_the_file_by_name(tmp_path: Path) -> None:
    """As every version so far has written them, so that its checkpoints can be gone on from."""
    run = prepare(tmp_path)
    optimizer = run.optimizer.optimizer
    parameters = dict(run.bare_model.named_parameters())
    idle = next(iter(parameters))  # never has a gradient
    for name, parameter in parameters.items():
        parameter.grad = None if name == idle else torch.rand_like(parameter)
    run.optimizer.step()
    run.state.step = 1
    run.save()
    expected = {
        f"{name}::{key}": optimizer.state[parameters[name]][key]
        for name in parameters.keys() - {idle}
        for key in ("step", "exp_avg", "exp_avg_sq")
    }
    saved = load_file(tmp_path / "checkpoint-1" / "optimizer.safetensors")
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[key], tensor) for key, tensor in expected.items())
    groups = json.loads((tmp_path / "checkpoint-1" / "trainer_state.json").read_text())["optimizer"]
    names = {id(parameter): name for name, parameter in parameters.items()}
    for group, settings in zip(optimizer.param_groups, groups, strict=True):
        assert settings["params"] == [names[id(parameter)] for parameter in group["params"]]
        assert settings["lr"] == group["lr"]
    again = prepare(tmp_path, resume_from_checkpoint="latest").optimizer.optimizer
    for group, other in zip(optimizer.param_groups, again.param_groups, strict=True):
        for one, two in zip(group["params"], other["params"], strict=True):
            assert optimizer.state.get(one, {}).keys() == again.state.get(two, {}).keys()


def test_before_the_first_step_there_are_no_moments(tmp_path: Path) -> None:
    run = prepare(tmp_path)
    run.save()
    assert load_file(tmp_path / "checkpoint-0" / "optimizer.safetensors") == {}
    again = prepare(tmp_path, resume_from_checkpoint="latest")
    assert not run.optimizer.optimizer.state
    assert not again.optimizer.optimizer.state


# --- weights and generators ----------------------------------------------------------------------


def test_mean_of_weights(tmp_path: Path) -> None:
    tensors = [torch.randn(3, 5) for _ in range(3)]
    folders = [tmp_path / str(i) for i in range(3)]
    for folder, tensor in zip(folders, tensors, strict=True):
        folder.mkdir()
        save_file({"a": tensor, "b": tensor[0] + 1}, folder / "model.safetensors")
    mean = mean_weights(folders)
    expected = torch.stack(tensors).double().mean(0)
    torch.testing.assert_close(mean["a"], expected.float(), rtol=0, atol=0)
    torch.testing.assert_close(mean["b"], (expected[0] + 1).float())


def test_load_weights_replaces_them_all(saved: Path, tmp_path: Path) -> None:
    model = prepare(tmp_path).bare_model
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
    load_weights(model, saved / "checkpoint-2")  # the same seed
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_all_generators_come_back() -> None:
    def draw() -> list[float]:
        numpy_draws = [np.random.rand(), np.random.randn()]  # noqa: NPY002
        python_draws = [random.random(), random.gauss(0, 1)]
        return [*torch.rand(3).tolist(), *numpy_draws, *python_draws]

    draw()  # leaves a second normal number in store, in Python's and NumPy's generator
    state = {name: tensor.clone() for name, tensor in random_state(CPU).items()}
    expected = draw()
    assert draw() != expected
    set_random_state(state, CPU)
    assert draw() == expected


# --- the folder ----------------------------------------------------------------------------------


def test_limit_keeps_the_newest_and_what_is_named(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
    (tmp_path / "checkpoint-2.abandoned").mkdir()
    (tmp_path / "checkpoint-best").mkdir()
    remove_checkpoints(tmp_path, 2, {2})
    assert list(list_checkpoints(tmp_path)) == [2, 10, 20]
    remove_checkpoints(tmp_path, 9, set())
    assert list(list_checkpoints(tmp_path)) == [2, 10, 20]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_set_aside_twice(tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / "checkpoint-5").mkdir()
        set_aside_later(tmp_path, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5.abandoned"]


def test_an_empty_or_new_folder_is_fine(tmp_path: Path) -> None:
    prepare_output_dir(tmp_path / "a" / "b", overwrite=False, resume=False)
    assert (tmp_path / "a" / "b").is_dir()
    assert list((tmp_path / "a" / "b").iterdir()) == []


def test_a_folder_with_files_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty .*thesis.txt.*--overwrite_output_dir"):
        prepare_output_dir(tmp_path, overwrite=False, resume=False)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_overwriting_removes_what_a_run_writes_alone(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "run"))
    (folder / "thesis.txt").write_text("mine")
    (folder / "data").mkdir()
    (folder / "checkpoint-7.abandoned").mkdir()
    (folder / "metrics.jsonl").write_text("")
    (folder / "modeling_bahdanau.py").write_text("")
    prepare_output_dir(folder, overwrite=True, resume=False)
    assert sorted(path.name for path in folder.iterdir()) == ["data", "thesis.txt"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write to --output_dir"):
        prepare_output_dir(tmp_path / "file", overwrite=True, resume=False)
    with pytest.raises(InputError, match="cannot write to --output_dir"):
        prepare_output_dir(tmp_path / "file" / "run", overwrite=False, resume=False)
    with pytest.raises(InputError, match="cannot write to --output_dir"):
        prepare_output_dir(Path("/proc/run"), overwrite=False, resume=False)


def test_log_is_cut_also_where_a_crash_has_torn_it(tmp_path: Path) -> None:
    cut_metrics(tmp_path, 3)  # nothing there, nothing to do
    for step in (1, 2, 3, 4):
        log_metrics(tmp_path, {"step": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    cut_metrics(tmp_path, 3)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]


def test_errors_of_the_main_process_reach_all() -> None:
    accelerator = Accelerator()
    assert on_main_process(accelerator, lambda: 5) == 5

    def fail() -> None:
        raise InputError("no such file")

    with pytest.raises(InputError, match="no such file"):
        on_main_process(accelerator, fail)


# --- what a mutation tester found untested (tests/mutations.md) ----------------------------------


def test_what_stands_in_the_way_is_replaced(tmp_path: Path, caplog: Any) -> None:
    """Folders that hold something, as the remains of a killed run do."""
    for name in ("checkpoint-5", "checkpoint-5.abandoned", ".removed-checkpoint-4", "checkpoint-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text("x")
    set_aside_later(tmp_path, 4)
    message = "Resuming before step 5: its checkpoint is now checkpoint-5.abandoned"
    assert caplog.messages == [message]
    assert [path.name for path in (tmp_path / "checkpoint-5.abandoned").iterdir()] == [
        "checkpoint-5"
    ]
    remove_checkpoint(tmp_path / "checkpoint-4")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5.abandoned"]


@pytest.mark.parametrize("write", [write_json, log_metrics])
def test_what_cannot_be_written_is_named(tmp_path: Path, write: Any) -> None:
    folder = tmp_path / "missing"
    path = folder / "metrics.jsonl"
    with pytest.raises(InputError, match=f"^cannot write {path}: No such file or directory"):
        write(path if write is write_json else folder, {"step": 1})


def test_json_is_written_whole_and_readable(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"名": [1, 2]})
    expected = '{\n  "名": [\n    1,\n    2\n  ]\n}\n'
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_emptied_into_another(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    for folder in (source, target):
        folder.mkdir()
        (folder / "model").write_text(folder.name)
    move_files(source, target)
    assert not source.exists()
    assert {path.name: path.read_text() for path in target.iterdir()} == {"model": "source"}


def test_files_folders_and_links_are_removed(tmp_path: Path) -> None:
    kept, link, file = tmp_path / "kept", tmp_path / "link", tmp_path / "file"
    kept.mkdir()
    (kept / "x").touch()
    link.symlink_to(kept)
    file.touch()
    for path in (link, file, tmp_path / "missing"):
        remove(path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (kept / "x").exists()
    remove(kept)
    assert not kept.exists()


@pytest.mark.parametrize(
    ("name", "is_plain"),
    [
        ("a.b", True),
        ("X", True),
        ("", False),
        (".", False),
        ("..", False),
        (7, False),
        (("a",), False),
    ]
    + [(f"a{sign}b", False) for sign in "/\\:\0"],
)
def test_plain_names(name: object, is_plain: bool) -> None:
    assert is_plain_name(name) is is_plain


def test_sealing_names_every_file_and_flushes_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    flushed, opened = [], {}
    real_open, real_fsync = os.open, os.fsync

    def watched_open(path: Any, *args: Any) -> int:
        descriptor = real_open(path, *args)
        opened[descriptor] = Path(path)
        return descriptor

    monkeypatch.setattr(os, "open", watched_open)
    monkeypatch.setattr(os, "fsync", lambda d: (flushed.append(opened[d]), real_fsync(d)))
    seal_checkpoint(tmp_path)
    manifest = tmp_path / "manifest.json"
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    expected = {"format": 1, "files": {"a": {"sha256": abc, "bytes": 3}}}
    assert manifest.read_text(encoding="utf-8") == json.dumps(expected, indent=2) + "\n"
    assert {tmp_path, tmp_path / "a", manifest} <= set(flushed)


def test_private_weights_are_shared(tmp_path: Path) -> None:
    for name, mode in (("config.json", 0o640), ("model.safetensors", 0o600), ("x.bin", 0o600)):
        (tmp_path / name).touch()
        (tmp_path / name).chmod(mode)
    share_files(tmp_path)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"config.json": 0o640, "model.safetensors": 0o640, "x.bin": 0o600}


def test_a_checkpoint_that_is_passed_over_is_told(tmp_path: Path, caplog: Any) -> None:
    path = tmp_path / "checkpoint-7"
    path.mkdir()
    with pytest.raises(InputError, match=f"^no checkpoint in {tmp_path} is whole: start the run"):
        find_checkpoint(tmp_path, "latest")
    (message,) = caplog.messages
    assert message.startswith(f"{path} is no checkpoint of a run (its manifest.json is missing")
    assert message.endswith("use --model_name_or_path. Trying the one before it.")


def test_remains_of_a_killed_run_are_removed(tmp_path: Path) -> None:
    remains = (".model.unfinished-12", ".removed-checkpoint-3")
    for name in (*remains, ".git", ".removed-checkpoint-x", "checkpoint-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").touch()
    prepare_output_dir(tmp_path, overwrite=False, resume=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".git",
        ".removed-checkpoint-x",
        "checkpoint-1",
    ]


def test_refusals_of_a_folder_in_full(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.touch()
    with pytest.raises(InputError) as caught:
        prepare_output_dir(folder, overwrite=False, resume=False)
    assert str(caught.value) == f"cannot write to --output_dir {folder}: File exists"
    with pytest.raises(InputError) as caught:
        prepare_output_dir(tmp_path, overwrite=False, resume=False)
    assert str(caught.value) == (
        f"--output_dir {tmp_path} is not empty (it holds run): name another, or add "
        "--resume_from_checkpoint latest to go on, or --overwrite_output_dir to start afresh"
    )


def test_one_file_of_a_checkpoint_can_be_verified(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    seal_checkpoint(tmp_path)
    (tmp_path / "b").write_text("x")
    verify_checkpoint(tmp_path, "a")
    verify_checkpoint(tmp_path, "c")
    for only in ("b", None):
        with pytest.raises(InputError, match=r"is damaged: b is not as it was written$"):
            verify_checkpoint(tmp_path, only)
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"] = {"../b": manifest["files"]["b"]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(InputError, match=r"manifest\.json names '\.\./b', no file of this folder$"):
        verify_checkpoint(tmp_path)
