"""A release is exact; a push goes well or says why."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from bahdanau_hf import InputError
from bahdanau_hf.cli import main
from bahdanau_hf.hub import push as hub
from bahdanau_hf.hub.model_card import REPO_PLACEHOLDER
from bahdanau_hf.hub.push import push_folder, push_space, release_files
from tests.helpers.finished_run import text_of
from tests.helpers.hub_server import HubServer
from tests.helpers.places import fingerprint
from tests.helpers.tiny_checkpoint import PAIRS

# --- the release ---------------------------------------------------------------------------------


def test_release_is_exact(run_folder: Path) -> None:
    names = release_files(run_folder)
    package = Path(hub.__file__).parents[1] / "modeling"
    travelling = {path.name for path in package.glob("*_bahdanau.py")}
    assert len(names) == len(set(names))
    assert set(names) == travelling | {
        *("README.md", "config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "eval_results.json", "alignment.svg"),
        "notebook.ipynb",
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
    for name in set(files) - {"README.md", "notebook.ipynb"}:
        assert hashlib.sha256(files[name]).hexdigest() == before[name]
    card = files["README.md"].decode()
    assert card == text_of(run_folder).replace(REPO_PLACEHOLDER, "alice/tea")
    notebook = (run_folder / "notebook.ipynb").read_text(encoding="utf-8")
    assert files["notebook.ipynb"].decode() == notebook.replace(REPO_PLACEHOLDER, "alice/tea")
    assert 'from_pretrained(\\"alice/tea\\")' in files["notebook.ipynb"].decode()
    assert 'Translator.from_pretrained("alice/tea", revision="COMMIT")' in card
    assert set(repo.refs) == {"main"}


def test_a_page_becomes_a_static_space(tmp_path: Path, server: HubServer) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "index.html").write_text("<p>")
    (tmp_path / "README.md").write_text("---\nsdk: static\n---\n")
    (tmp_path / "model" / "a.onnx").write_bytes(b"\0" * 9)
    assert push_space(tmp_path, "alice/page", dry_run=True) is None
    assert ("space", "alice/page") not in server.repos
    url = push_space(tmp_path, "alice/page", token="hf_alice")
    assert url is not None
    assert "/spaces/alice/page/commit/" in url
    repo = server.repos["space", "alice/page"]
    assert {"README.md", "index.html", "model/a.onnx"} <= set(
        server.files("alice/page", kind="space")
    )
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


def test_the_command_lists_and_refuses(
    run_folder: Path, server: HubServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["push", str(run_folder), "alice/tea", "--dry_run"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[-1] for line in printed.splitlines()[:-1]] == release_files(run_folder)
    assert server.calls == []
    (run_folder / "model.safetensors").unlink()
    assert main(["push", str(run_folder), "alice/tea"]) == 2
    error = capsys.readouterr().err
    assert "model.safetensors" in error
    assert error.count("\n") == 1
