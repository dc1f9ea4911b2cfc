"""What a run needs before its first step: taken over, decided, or refused at once."""

import json
import logging
import shutil
from collections import namedtuple
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from bahdanau_hf import InputError
from bahdanau_hf.checkpoints.run_folder import check_room, list_checkpoints
from bahdanau_hf.checkpoints.save_load import TrainerState
from bahdanau_hf.distributed import _LAUNCH_NUMBERS, _launch_told, work_on_processors_without_gpus
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.training import setup
from bahdanau_hf.training.arguments import parse_arguments
from bahdanau_hf.training.run import Run
from bahdanau_hf.training.setup import prepare_model, start_accelerator
from tests.helpers.places import FIXTURES, PAIRS
from tests.helpers.tiny_checkpoint import make_checkpoint
from tests.helpers.tiny_run import flags, prepare, train_script

SHAPELESS = {"embedding_size": None, "hidden_size": None, "encoder_layers": None}
UNTOLD = {**SHAPELESS, "tokenizer_kind": None, "min_frequency": None}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the tiny run's shape."""
    return prepare(tmp_path_factory.mktemp("begun")).save()


# --- from a model --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("hidden_size", 64, "has hidden_size 9, not 64, which cannot be changed"),
        ("encoder_layers", 1, "encoder_layers 2, not 1"),
        ("attention_hidden_size", 8, "attention_hidden_size 9, not 8"),
        ("use_attention", False, "use_attention True, not False"),
        ("readout", "deep", "readout linear, not deep"),
        ("tie_word_embeddings", True, "tie_word_embeddings False, not True"),
        ("initializer", "orthogonal", "initializer xavier, not orthogonal"),
        ("vocab_size", 9999, r"tokenizer of .* has vocab_size \d+, not 9999"),
        ("tokenizer_kind", "bpe", "tokenizer of .* has tokenizer_kind word-char, not bpe"),
        ("min_frequency", 3, "min_frequency 1, not 3"),
    ],
)
def test_what_a_model_has_settled_is_refused_by_name(
    begun: Path, tmp_path: Path, name: str, value: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        prepare(tmp_path, model_name_or_path=begun, **{name: value})
    assert f"leave out --{name}" in str(error.value)


def test_a_tokenizer_that_does_not_say_is_not_asked_again(begun: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(begun, tmp_path / "old"))
    (old / "manifest.json").unlink()
    config = json.loads((old / "tokenizer_config.json").read_text())
    del config["min_frequency"]
    (old / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="min_frequency unknown, not 1"):
        prepare(tmp_path / "run", model_name_or_path=old)
    prepare(tmp_path / "run", model_name_or_path=old, min_frequency=None)


def test_dropout_changes_no_shape_and_applies(begun: Path, tmp_path: Path) -> None:
    told = {"dropout": 0.5, "readout_dropout": 0.25, "attention_dropout": None}
    run = prepare(tmp_path, model_name_or_path=begun, max_source_length=17, **told)
    config = run.bare_model.config
    assert (config.dropout, config.readout_dropout, config.attention_dropout) == (0.5, 0.25, 0.1)
    plain = prepare(tmp_path / "plain", model_name_or_path=begun)
    batches, _ = next(run.batches.steps(TrainerState(), 1))
    run.model.train()
    losses = [r.model(**batches[0], skip_logits=True).loss.item() for r in (run, plain)]
    assert losses[0] != losses[1]
    saved = run.save()
    assert json.loads((saved / "config.json").read_text())["dropout"] == 0.5
    assert json.loads((saved / "tokenizer_config.json").read_text())["model_max_length"] == 17


def test_a_recipe_gives_way_to_the_model(
    begun: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("hidden_size: 64\nvocab_size: 700\nreadout_dropout: 0.25\n")
    changes = {**UNTOLD, "model_name_or_path": begun}
    settings = parse_arguments([str(recipe), *flags(tmp_path / "run", **changes)])
    tokenizer = setup.load_tokenizer(begun)
    model = prepare_model(settings, tokenizer)
    assert (model.config.hidden_size, model.config.readout_dropout) == (9, 0.25)
    assert f"the model of {begun} keeps its own hidden_size: the recipe's give way" in caplog.text


def test_a_resumed_run_keeps_its_tokenizer(begun: Path) -> None:
    changes = {"resume_from_checkpoint": "latest", "vocab_size": None}
    prepare(begun.parent, **changes)
    with pytest.raises(InputError, match=r"the tokenizer of .* has min_frequency 1, not 2"):
        prepare(begun.parent, **changes, min_frequency=2)


def test_a_vocabulary_that_knows_nothing_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rare = tmp_path / "rare.tsv"
    rows = [f"{a}{b}x cat\t{chr(0x4E00 + 9 * ord(b))}。" for a in "abcd" for b in "efgh"]
    rare.write_text("en\tzh\n" + "\n".join(rows) + "\n", encoding="utf-8")
    apart = {"validation_file": PAIRS, "validation_split_percentage": None}
    bound = {"train_file": rare, "min_frequency": 17, **apart}
    assert train_script(tmp_path / "run", **bound) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the tokenizer does not know 100% of the source's tokens: lower --min_frequency" in error
    prepare(tmp_path / "half", **{**bound, "min_frequency": 9})  # "cat" and "。" are known


# --- a new text ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bpe", "word-char"])
@pytest.mark.parametrize("tied", [pytest.param(False, marks=pytest.mark.slow), True])
def test_an_extended_model_translates_as_before(
    tmp_path: Path, kind: str, tied: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    shape = {"readout": "deep", "tie_word_embeddings": True} if tied else {}
    folder = make_checkpoint(tmp_path / "old", kind=kind, **shape)
    new_text = tmp_path / "new.tsv"
    rows = ["Zebras yawn.\t斑马打哈欠。", "Zebras know 37 books!\t斑马知道37本书！"] * 3
    new_text.write_text(
        "en\tzh\n" + "\n".join([*rows, "Gnus yawn.\t羚。"]) + "\n", encoding="utf-8"
    )
    changes = {
        **{**UNTOLD, "dropout": None, "attention_dropout": None, "train_file": new_text},
        **{"validation_file": PAIRS, "max_eval_samples": 5, "model_name_or_path": folder},
    }
    if kind == "word-char":  # every second token is new
        with pytest.raises(InputError, match="--extend_vocabulary"):
            prepare(tmp_path / "unknown", **changes)
    run = prepare(tmp_path / "run", **changes, extend_vocabulary=True)
    old = Translator.from_pretrained(folder, device="cpu")
    sizes = len(old.tokenizer), len(run.tokenizer)
    assert f"{sizes[1] - sizes[0]} new entries after {sizes[0]}" in caplog.text
    before, after = old.tokenizer.get_vocab(), run.tokenizer.get_vocab()
    assert {token: after[token] for token in before} == before
    new = after.keys() - before.keys()
    assert {"斑", "羚"} & new == {"斑"}, "what is frequent"
    assert " Zebras" in new or "zebras" in new
    model = run.bare_model
    assert model.config.vocab_size == sizes[1] == model.lm_head.out_features
    assert model.get_decoder().embed_tokens.num_embeddings == sizes[1]
    # Sentences without a new word are read and translated as they were.
    sentences = ["Call us.", "I know.", "The tea is hot.", "Two cups of tea, please."]
    assert [run.tokenizer(s)["input_ids"] for s in sentences] == [
        old.tokenizer(s)["input_ids"] for s in sentences
    ]
    extended = Translator(model.eval(), run.tokenizer)
    for search in ({"num_beams": 1}, {"num_beams": 3}):
        expected, actual = (
            [t.text for t in translator.translate(sentences, max_new_tokens=12, **search)]
            for translator in (old, extended)
        )
        assert actual == expected
    # The new ones can be learnt.
    labels = {i for row in run.pairs.encoded["train"]["labels"] for i in row}
    assert labels & {after["斑"]}
    assert run.pairs.dropped["train"].unknown_labels == (kind == "word-char")
    # And the run goes on with what it has.
    saved = run.save()
    again = prepare(
        tmp_path / "run", **changes, extend_vocabulary=True, resume_from_checkpoint="latest"
    )
    assert again.tokenizer.get_vocab() == after
    assert Translator.from_pretrained(saved).tokenizer.get_vocab() == after


def test_an_old_checkpoint_can_be_extended_and_a_full_one_says_so(tmp_path: Path) -> None:
    changes = {
        **{**UNTOLD, "dropout": None, "attention_dropout": None, "min_frequency": 1},
        **{"model_name_or_path": FIXTURES / "checkpoint_0", "extend_vocabulary": True},
    }
    run = prepare(tmp_path, **changes)
    assert run.pairs.dropped["train"].unknown_labels == 0
    with pytest.raises(InputError, match=r"has \d+ entries already: give a --vocab_size above"):
        prepare(tmp_path / "full", **changes, vocab_size=10)


# --- from accelerate -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipe", "flag", "told", "expected", "line"),
    [
        (None, None, None, 1, None),
        (None, None, 4, 4, "4 batches per step, as accelerate says"),
        (2, None, 4, 4, "4 batches per step, as accelerate says"),
        (2, 3, 4, 3, "3 batches per step, not accelerate's 4: a flag counts"),
        (2, None, None, 2, None),
        (4, None, 4, 4, None),
        (2, 4, 4, 4, None),
    ],
)
def test_whose_accumulation_counts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    recipe: int | None,
    flag: int | None,
    told: int | None,
    expected: int,
    line: str | None,
) -> None:
    caplog.set_level(logging.INFO)
    if told is not None:
        monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", str(told))
    file = tmp_path / "recipe.yaml"
    file.write_text("" if recipe is None else f"gradient_accumulation_steps: {recipe}\n")
    flag_list = [] if flag is None else [f"--gradient_accumulation_steps={flag}"]
    accelerator = start_accelerator(parse_arguments([str(file), *flag_list]))
    assert accelerator.gradient_accumulation_steps == expected
    assert [m for m in caplog.messages if "per step" in m] == ([line] if line else [])


def test_what_accelerate_refuses_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AcceleratorState, "_shared_state", {})
    monkeypatch.setenv("ACCELERATE_DYNAMO_BACKEND", "many")
    with pytest.raises(InputError, match=r"(?i)^accelerate cannot be set up so: .*'many'.*config"):
        start_accelerator(parse_arguments([]))


@pytest.mark.parametrize("value", ["many", "", "-", "2.0"])
@pytest.mark.parametrize("name", [*_LAUNCH_NUMBERS])
def test_a_number_of_a_launch_that_is_none(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=f"^the environment variable {name} is '{value}', which"):
        start_accelerator(parse_arguments([]))


@pytest.mark.parametrize(
    ("command", "steps"),
    [
        ("python accelerate launch --gradient_accumulation_steps 4 train.py tiny", 4),
        ("python -m accelerate.commands.launch --gradient-accumulation-steps=4 train.py", 4),
        ("python /bin/accelerate-launch --gradient_accumulation_steps 4 -m bahdanau_hf.train", 4),
        ("accelerate launch train.py --gradient_accumulation_steps 4", None),
    ],
)
def test_what_a_launch_was_told(command: str, steps: int | None) -> None:
    told = _launch_told(command.split())
    assert told is not None
    assert told.gradient_accumulation_steps == steps


@pytest.mark.parametrize("command", ["bash launch 4", "make launch", "torchrun train.py", ""])
def test_what_is_no_launch(command: str) -> None:
    assert _launch_told(command.split()) is None


@pytest.mark.parametrize(
    ("world", "here", "gpus", "uses_cpu"),
    [(1, 1, 0, False), (2, 2, 0, True), (4, 2, 0, True), (2, 2, 2, False), (4, 2, 2, False)],
)
def test_processes_without_gpus_are_one_run_on_processors(
    monkeypatch: pytest.MonkeyPatch, world: int, here: int, gpus: int, uses_cpu: bool
) -> None:
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(here))
    device = torch.device("cuda") if gpus else None
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: device)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: gpus)
    work_on_processors_without_gpus()
    assert setup.parse_flag_from_env("ACCELERATE_USE_CPU") == uses_cpu
    if gpus:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(gpus + 1))
        with pytest.raises(InputError, match="3 processes for 2 GPUs: start one for each"):
            work_on_processors_without_gpus()


# --- what the end will need ----------------------------------------------------------------------


def measured(bleus: Sequence[float]) -> Any:
    """Validations that find these BLEUs in turn."""
    left = iter(bleus)

    def measure(run: Run) -> dict[str, float]:
        return {"eval_loss": 2.0, "eval_bleu": next(left), "eval_chrf": 0.0}

    return measure


@pytest.fixture
def with_its_best_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run whose checkpoint 1 is its best, and 2 better than 3."""
    monkeypatch.setattr(Run, "measure", measured([9, 7, 5]))
    prepare(tmp_path / "a", max_train_steps=3, eval_steps=1, lr_scheduler_type="constant").train()
    return tmp_path / "a"


LONGER = {"max_train_steps": 4, "eval_steps": 1, "lr_scheduler_type": "constant"}


def test_a_run_in_another_folder_than_its_best_checkpoint_does_not_begin(
    with_its_best_behind: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = with_its_best_behind / "checkpoint-3"
    changes = {**LONGER, "resume_from_checkpoint": last}
    assert train_script(tmp_path / "b", **changes) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert f"checkpoint-1, is not in {tmp_path / 'b'}: go on with --output_dir" in error
    assert f"--output_dir {with_its_best_behind}, or" in error
    assert f"--model_name_or_path {last}" in error
    assert not list((tmp_path / "b").iterdir())


@pytest.mark.parametrize("how", ["removed", "damaged"])
def test_a_run_goes_on_with_the_best_that_is_there(
    with_its_best_behind: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    best = with_its_best_behind / "checkpoint-1"
    if how == "removed":
        shutil.rmtree(best)
    else:
        (best / "model.safetensors").write_bytes(b"half")
    run = prepare(with_its_best_behind, **LONGER, resume_from_checkpoint="latest")
    assert (run.state.step, run.state.best_step, run.state.best_score) == (3, 2, 7)
    assert "The best checkpoint is gone; of those left" in caplog.text


def test_a_disk_without_room_for_a_checkpoint_is_told_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(10**9, 10**9, 900))
    with pytest.raises(InputError, match=r"need 200.0 MB in .*, where 0.0 MB are free: make room"):
        check_room(tmp_path, 50_000_000)
    with pytest.raises(InputError, match="are free: make room"):
        prepare(tmp_path)


def test_a_tracker_that_does_not_start_is_one_line_and_the_folder_stays_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("api_key not configured (no-tty).\ncall wandb.login()")

    monkeypatch.setattr("accelerate.Accelerator.init_trackers", refuse)
    assert train_script(tmp_path / "run") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "a tracker cannot be started: api_key not configured (no-tty). Log in to it" in error
    assert not list((tmp_path / "run").iterdir())


# --- a batch script that starts and goes on ------------------------------------------------------


@pytest.mark.parametrize("before", ["nothing", "an empty folder", "records of a run cut short"])
def test_latest_starts_a_run_that_has_no_checkpoint(
    tmp_path: Path, before: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    folder = tmp_path / "run"
    if before != "nothing":
        folder.mkdir()
    if before == "records of a run cut short":
        (folder / "metrics.jsonl").write_text('{"step": 1}\n')
        (folder / "settings.json").write_text("{}")
        (folder / ".checkpoint-1.unfinished-7").mkdir()
    run = prepare(folder, resume_from_checkpoint="latest")
    assert run.state.step == 0
    assert f"There is no checkpoint in {folder} yet: the run starts" in caplog.messages
    assert not list(folder.iterdir())
    run.save()
    assert prepare(folder, resume_from_checkpoint="latest").state.step == 0
    assert list(list_checkpoints(folder)) == [0]


@pytest.mark.parametrize("name", ["model.safetensors", "thesis.txt"])
def test_latest_leaves_other_files_alone(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).write_text("mine")
    (tmp_path / "settings.json").write_text("{}")
    assert train_script(tmp_path, resume_from_checkpoint="latest") == 2
    assert "there is no checkpoint in" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {name, "settings.json"}
