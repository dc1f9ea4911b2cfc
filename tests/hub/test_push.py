"""The card says what was measured and no more; a release is exact; a push goes well or says why."""

import hashlib
import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from bahdanau_hf import InputError
from bahdanau_hf.hub import push as hub
from bahdanau_hf.hub.model_card import REPO_PLACEHOLDER, write_model_card
from bahdanau_hf.hub.push import push_folder, release_files
from bahdanau_hf.metrics.translation import score_translations
from tests.helpers.hub_server import HubServer
from tests.helpers.tiny_checkpoint import PAIRS, make_checkpoint

SCORES = {
    "bleu": 31.2345,
    "bleu_signature": "nrefs:1|case:mixed|eff:no|tok:zh|smooth:exp|version:2.6.0",
    "chrf": 25.5,
    "chrf_signature": "nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:2.6.0",
    "num_sentences": 16,
    "num_beams": 4,
}
SETTINGS: dict[str, Any] = {
    "model": {"dropout": 0.1, "initializer": "xavier"},
    "data": {"source_lang": "en", "target_lang": "zh", "train_file": None, "dataset_name": None},
    "train": {"optimizer": "adamw", "learning_rate": 0.0017, "seed": 7, "hub_token": "hf_secret"},
    "versions": {"bahdanau_hf": "0.1.0", "torch": "2.13.0"},
    "num_parameters": 56789,
    "num_pairs": {"train": 3456, "validation": 12, "test": 16},
    "dropped": {"train": {"read": 3500, "empty": 0, "too_long": 44, "kept": 3456}},
}
# Every second one is wrong, so that the groups of the card differ.
HYPOTHESES = [zh if i % 2 else "今天是星期天。" for i, (_, zh) in enumerate(PAIRS)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("release") / "tea-model")


@pytest.fixture
def run_folder(checkpoint: Path, tmp_path: Path) -> Path:
    """The checkpoint as a run leaves it: with records, a map, and much that is not published."""
    folder = tmp_path / "tea-model"
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    save(folder / "settings.json", SETTINGS)
    save(folder / "eval_results.json", {"test": SCORES, "validation": {"bleu": 99.0}})
    lines = ["source\treference\thypothesis\tsentence_bleu"]
    # Every second one is wrong, so that the groups differ.
    lines += [
        f"{en}\t{zh}\t{zh if i % 2 else '今天是星期天。'}\t0" for i, (en, zh) in enumerate(PAIRS)
    ]
    (folder / "test_predictions.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "alignment.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    for name in ("metrics.jsonl", "report.html", "pytorch_model.bin", "stray_bahdanau.py"):
        (folder / name).write_text("")
    (folder / "checkpoint-100").mkdir()
    write_model_card(folder)
    return folder


def save(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def text_of(folder: Path) -> str:
    return (folder / "README.md").read_text(encoding="utf-8")


# --- the card ------------------------------------------------------------------------------------


def test_front_matter_is_what_the_hub_reads(run_folder: Path) -> None:
    data = ModelCard(text_of(run_folder)).data.to_dict()
    assert data["language"] == ["en", "zh"]
    assert data["license"] == "apache-2.0"
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "translation"
    assert data["metrics"] == ["bleu", "chrf"]
    assert "datasets" not in data  # the bundled pairs are not on the Hub
    name, results = model_index_to_eval_results(data["model-index"])
    assert name == "tea-model"
    found = {
        r.metric_type: (r.metric_value, r.metric_args["signature"], r.dataset_split)
        for r in results
    }
    assert found == {
        "bleu": (31.23, SCORES["bleu_signature"], "test"),
        "chrf": (25.5, SCORES["chrf_signature"], "test"),
    }


def test_card_states_what_the_run_recorded(run_folder: Path) -> None:
    text = text_of(run_folder)
    for stated in (
        "| test | 16 | 31.23 | 25.50 |",
        "Decoding: beam search with 4 beams.",
        SCORES["bleu_signature"],
        "| train | 3,456 |",
        "44 too long",
        "56,789 parameters",
        "| peak learning rate | 0.0017 |",
        "CC0-1.0",
        "](alignment.svg)",
        "24 tokens are cut",
        "bahdanau2015neural",
    ):
        assert stated in text, stated
    assert "hf_secret" not in text
    assert not re.search(r"{[{%]|[}%]}|\bNone\b|\bnan\b", text)


def test_alignment_error_rate_stands_beside_what_knows_nothing(run_folder: Path) -> None:
    assert "AER" not in text_of(run_folder)
    rates = {"error_rate": 0.23456, "precision": 0.8, "recall": 0.7, "num_sentences": 150}
    none = {"uniform_error_rate": 0.875, "diagonal_error_rate": 0.6}
    save(run_folder / "eval_results.json", {"test": SCORES, "alignment": {**rates, **none}})
    text = write_model_card(run_folder).read_text(encoding="utf-8")
    assert "on 150 held-out\npairs" in text
    table = (
        "| this model's attention | 23.5 |\n| the diagonal | 60.0 |\n| drawn at random | 87.5 |\n"
    )
    assert f"| links | AER, % |\n| --- | ---: |\n{table}" in text
    assert "\n\n\n" not in text
    # Half a measurement is none.
    save(run_folder / "eval_results.json", {"test": SCORES, "alignment": rates})
    assert "AER" not in write_model_card(run_folder).read_text(encoding="utf-8")


def test_scores_by_length_are_those_of_the_sentences(run_folder: Path) -> None:
    row = r"^\| (\d+)–(\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$"
    rows = re.findall(row, text_of(run_folder), re.M)
    assert [(first, last) for first, last, *_ in rows] == [("1", "5"), ("6", "10"), ("11", "15")]
    for first, last, *shown in rows:
        group = [
            (hyp, zh)
            for (en, zh), hyp in zip(PAIRS, HYPOTHESES, strict=True)
            if int(first) <= len(en.split()) <= int(last)
        ]
        scores = score_translations(*zip(*group, strict=True), target_lang="zh")
        assert shown == [str(len(group)), f"{scores.bleu:.2f}", f"{scores.chrf:.2f}"]


def test_what_was_not_measured_is_absent(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    text = write_model_card(folder).read_text(encoding="utf-8")
    data = ModelCard(text).data.to_dict()
    assert not {"model-index", "metrics", "language", "datasets"} & set(data)
    assert "Not measured." in text
    body = text.split("## Limits")[0]
    body = re.sub(r"(?is)```.*?```|license: [\w.-]+|seq2seq|et al\. 2015", "", body)
    numbers = set(re.findall(r"\d+", body))
    assert numbers == {"1", "40"}  # layers and width, from config.json
    assert not re.search(r"{[{%]|\bNone\b|CC0|\]\(alignment", text)


@pytest.mark.parametrize(
    ("data", "stated", "datasets"),
    [
        ({"dataset_name": "Helsinki-NLP/opus-100", "dataset_config_name": "en-zh"},
         "`Helsinki-NLP/opus-100` (`en-zh`)", ["Helsinki-NLP/opus-100"]),
        ({"train_file": "/data/own/pairs.tsv.gz"}, "`pairs.tsv.gz`", None),
        ({"train_file": "/data/own/p.tsv", "dataset_license": "cc-by-2.0"},
         "`p.tsv`. Its licence, as stated for the run: `cc-by-2.0`.", None),
        ({"train_file": "/data/own/a.en,/data/own/a.zh"}, "`a.en, a.zh`", None),
        ({"dataset_name": "."}, "licence is not recorded", None),  # a folder that exists
    ],
)  # fmt: skip
def test_data_are_named_without_where_they_lay(
    run_folder: Path, data: dict[str, str], stated: str, datasets: list[str] | None
) -> None:
    save(run_folder / "settings.json", {**SETTINGS, "data": {**SETTINGS["data"], **data}})
    text = write_model_card(run_folder).read_text(encoding="utf-8")
    assert stated in text
    assert "CC0" not in text
    assert "/data" not in text
    assert ModelCard(text).data.to_dict().get("datasets") == datasets


def test_validation_counts_where_no_test_was_run(run_folder: Path) -> None:
    save(run_folder / "eval_results.json", {"validation": {"bleu": 12.5, "chrf": None}})
    text = write_model_card(run_folder).read_text(encoding="utf-8")
    [result] = model_index_to_eval_results(ModelCard(text).data.to_dict()["model-index"])[1]
    assert (result.metric_type, result.metric_value, result.dataset_split) == (
        "bleu",
        12.5,
        "validation",
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", '{"model_type": "marian"}', "type 'marian'"),
        ("config.json", None, "holds none"),
        ("settings.json", "{broken", "settings.json"),
        ("eval_results.json", "[1]", "eval_results.json"),
    ],
)
def test_bad_folders_are_refused_in_one_line(
    run_folder: Path, name: str, content: str | None, message: str
) -> None:
    if content is None:
        (run_folder / name).unlink()
    else:
        (run_folder / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        write_model_card(run_folder)
    assert "\n" not in str(caught.value)


# --- the release ---------------------------------------------------------------------------------


def test_release_is_exact(run_folder: Path) -> None:
    names = release_files(run_folder)
    package = Path(hub.__file__).parents[1] / "modeling"
    travelling = {path.name for path in package.glob("*_bahdanau.py")}
    assert len(names) == len(set(names))
    assert set(names) == travelling | {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "eval_results.json", "alignment.svg"),
    }


@pytest.mark.parametrize(
    "name", ["README.md", "model.safetensors", "tokenizer.json", "recurrence_bahdanau.py"]
)
def test_incomplete_release_names_what_is_missing(run_folder: Path, name: str) -> None:
    (run_folder / name).unlink()
    with pytest.raises(InputError, match=name):
        release_files(run_folder)


def test_release_alone_gives_the_same_tokens(run_folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in release_files(run_folder):
        (copy / name).write_bytes((run_folder / name).read_bytes())
    outputs = []
    for folder in (run_folder, copy):
        model = AutoModelForSeq2SeqLM.from_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        batch = tokenizer([en for en, _ in PAIRS], padding=True, return_tensors="pt")
        outputs.append(model.generate(**batch, num_beams=2))
    assert torch.equal(*outputs)


# --- the push ------------------------------------------------------------------------------------


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    server = HubServer()
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    yield server
    server.close()


def fingerprint(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def push(folder: Path, name: str = "alice/tea", token: str = "hf_alice", **options: Any) -> str:
    url = push_folder(folder, name, token=token, **options)
    assert url is not None
    return url


def test_push_sends_the_release_and_leaves_the_folder_alone(
    run_folder: Path, server: HubServer
) -> None:
    before = fingerprint(run_folder)
    url = push(run_folder, private=True)
    repo = server.repos["model", "alice/tea"]
    assert url == f"{server.url}/alice/tea/commit/{repo.refs['main']}"
    assert repo.private
    assert fingerprint(run_folder) == before
    files = server.files("alice/tea")
    assert set(files) == set(release_files(run_folder))
    for name in set(files) - {"README.md"}:
        assert hashlib.sha256(files[name]).hexdigest() == before[name]
    card = files["README.md"].decode()
    assert card == text_of(run_folder).replace(REPO_PLACEHOLDER, "alice/tea")
    assert 'Translator.from_pretrained("alice/tea", revision="COMMIT")' in card
    assert set(repo.refs) == {"main"}


def test_pushing_again_changes_nothing_unless_something_changed(
    run_folder: Path, server: HubServer
) -> None:
    url = push(run_folder)
    commits = len(server.repos["model", "alice/tea"].commits)
    assert push(run_folder, name="tea") == url, "the token's owner is understood"
    assert len(server.repos["model", "alice/tea"].commits) == commits
    (run_folder / "alignment.svg").write_text("<svg/>")
    assert push(run_folder) != url
    assert server.files("alice/tea")["alignment.svg"] == b"<svg/>"


def test_push_to_a_branch_with_a_tag(run_folder: Path, server: HubServer) -> None:
    push(run_folder, revision="next", tag="v1")
    refs = server.repos["model", "alice/tea"].refs
    assert refs["v1"] == refs["next"] != refs["main"]
    assert set(server.files("alice/tea", "v1")) == set(release_files(run_folder))
    assert server.files("alice/tea", "main") == {}
    with pytest.raises(InputError, match="name is taken") as caught:
        push(run_folder, revision="next", tag="v1")
    assert "v1" in str(caught.value)


def test_pull_request(run_folder: Path, server: HubServer) -> None:
    push(run_folder)
    (run_folder / "alignment.svg").write_text("<svg/>")
    # Who may not write may still propose.
    url = push(run_folder, token="hf_bob", create_pr=True)
    assert url == f"{server.url}/alice/tea/discussions/1"
    assert server.files("alice/tea", "refs/pr/1")["alignment.svg"] == b"<svg/>"
    assert server.files("alice/tea")["alignment.svg"] != b"<svg/>"
    with pytest.raises(InputError, match="--tag"):
        push(run_folder, create_pr=True, tag="v1")


def test_dry_run_sends_nothing(run_folder: Path, server: HubServer) -> None:
    assert push_folder(run_folder, "alice/tea", dry_run=True) is None
    assert server.calls == []
    with pytest.raises(InputError, match="alice//tea"):
        push_folder(run_folder, "alice//tea", dry_run=True)


@pytest.mark.parametrize(
    ("options", "status", "advice"),
    [
        ({"token": "hf_wrong"}, 401, "hf auth login"),
        ({"token": "hf_bob"}, 403, "write access"),
        ({"token": "hf_reader"}, 403, "write access"),
        ({"name": "bob/tea"}, 403, "write access"),
        ({"tag": "main"}, 409, "name is taken"),
    ],
    ids=["wrong token", "not the owner", "reading token", "other owner", "name of a branch"],
)
def test_refusals_say_what_to_do(
    run_folder: Path, server: HubServer, options: dict[str, str], status: int, advice: str
) -> None:
    push(run_folder)
    before = fingerprint(run_folder)
    with pytest.raises(InputError, match=advice) as caught:
        push(run_folder, **options)
    assert "\n" not in str(caught.value)
    assert f"HTTP {status}" in str(caught.value)
    assert fingerprint(run_folder) == before


@pytest.mark.parametrize("call", ["auth-check", "large", "commit"])
def test_a_failing_hub_can_be_asked_again(
    run_folder: Path, server: HubServer, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    before = fingerprint(run_folder)
    server.refuse = {f"/{call}/": 500}
    with pytest.raises(InputError, match=r"try again later \(HTTP 500"):
        push(run_folder)
    server.refuse, server.drop = {}, {f"/{call}/"}
    with pytest.raises(InputError, match="connection failed") as caught:
        push(run_folder)
    assert "\n" not in str(caught.value)
    assert server.files("alice/tea") == {}, "nothing, or all of it"
    assert fingerprint(run_folder) == before
    server.drop = set()
    push(run_folder)
    assert set(server.files("alice/tea")) == set(release_files(run_folder))


def test_whether_a_push_will_be_let_in(run_folder: Path, server: HubServer) -> None:
    push(run_folder)
    assert hub.open_repository("tea", token="hf_alice") == "alice/tea"
    assert hub.open_repository("new", token="hf_alice", private=True) == "alice/new"
    assert server.repos["model", "alice/new"].private
    for token in ("hf_bob", "hf_reader"):
        with pytest.raises(InputError, match="write access"):
            hub.open_repository("alice/tea", token=token)
        assert hub.open_repository("alice/tea", token=token, write=False) == "alice/tea"


@pytest.mark.skipif(
    int(huggingface_hub.__version__.split(".")[0]) < 2,
    reason="before 2.0 the library asks huggingface.co itself, whatever HF_ENDPOINT says",
)
def test_the_hub_finds_no_fault_with_the_card(run_folder: Path, server: HubServer) -> None:
    card = ModelCard(text_of(run_folder))
    card.validate()
    assert server.calls == ["POST /api/validate-yaml"]


def test_no_network_no_token(
    run_folder: Path, server: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.close()
    with pytest.raises(InputError, match="connection failed"):
        push(run_folder)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="unset"):
        push(run_folder)


def test_script_lists_and_refuses(
    run_folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    script = Path(__file__).parents[2] / "scripts" / "push_to_hub.py"
    spec = importlib.util.spec_from_file_location("push_to_hub_script", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main([str(run_folder), "alice/tea", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[-1] for line in printed.splitlines()[:-1]] == release_files(run_folder)
    assert server.calls == []
    (run_folder / "model.safetensors").unlink()
    assert module.main([str(run_folder), "alice/tea"]) == 2
    error = capsys.readouterr().err
    assert "model.safetensors" in error
    assert error.count("\n") == 1
