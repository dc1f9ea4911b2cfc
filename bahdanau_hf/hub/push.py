"""Publishing a checkpoint: the list of what a release holds, and the push to the Hub."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)
from huggingface_hub.utils import validate_repo_id
from transformers.dynamic_module_utils import get_relative_imports

from ..errors import InputError, first_line
from .model_card import REPO_PLACEHOLDER, attention_map, read_model_config

logger = logging.getLogger(__name__)

_REQUIRED = (
    *("README.md", "config.json", "generation_config.json", "model.safetensors"),
    *("tokenizer.json", "tokenizer_config.json"),
)
_OPTIONAL = ("special_tokens_map.json", "eval_results.json", "notebook.ipynb")


def release_files(folder: str | Path) -> list[str]:
    """Name what a release of a checkpoint holds, and nothing besides.

    Weights, configuration, tokenizer, card, notebook, scores, one attention map, and of the Python
    files exactly those that loading the checkpoint needs.

    Raises:
        InputError: the folder holds no checkpoint of ours, or a needed file is missing.
    """
    folder = Path(folder)
    config = read_model_config(folder)
    code = _travelling_code(folder, config.get("auto_map", {}).values())
    missing = [name for name in (*_REQUIRED, *code) if not (folder / name).is_file()]
    if missing or not code:
        what = ", ".join(missing) or "auto_map in config.json"
        raise InputError(
            f"{folder} is not a complete release: it lacks {what}; bahdanau-hf train writes it"
        )
    names = (*_REQUIRED, *_OPTIONAL, *code, attention_map(folder))
    return [name for name in names if name and (folder / name).is_file()]


def push_folder(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool = False,
    revision: str | None = None,
    create_pr: bool = False,
    tag: str | None = None,
    dry_run: bool = False,
    token: str | None = None,
    message: str = "Upload the model",
) -> str | None:
    """Publish a checkpoint as one commit of a model repository on the Hub.

    The folder is only read. Pushing the same files once more changes nothing, so that a push that
    broke off can simply be repeated.

    Args:
        folder: a checkpoint of ours with its card.
        repo_id: `OWNER/NAME`, or `NAME` for a repository of the token's owner; made if need be.
        private: make a new repository private; one that exists stays as it is.
        revision: branch to push to, made if need be; default: the main one.
        create_pr: open a pull request instead.
        tag: give the new commit this tag.
        dry_run: check everything that can be checked here and send nothing.
        token: default: the one stored by `hf auth login`, or that of `HF_TOKEN`.
        message: of the commit.

    Returns:
        Where the commit or pull request can be seen; `None` after a dry run.

    Raises:
        InputError: an incomplete folder, a name that cannot be, or what the Hub refused and why.
    """
    folder = Path(folder)
    names = release_files(folder)
    if create_pr and tag:
        raise InputError("a pull request has no commit to tag yet: leave out --tag or --create_pr")
    if dry_run:
        with _clear_errors(repo_id):
            validate_repo_id(repo_id)
        return None
    api = HfApi(token=token)
    # Anybody may open a pull request in a repository that he can read.
    repo_id = open_repository(repo_id, private=private, token=token, write=not create_pr)
    with _clear_errors(repo_id):
        if revision and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        commit = api.create_commit(
            repo_id,
            [_addition(folder / name, repo_id) for name in names],
            commit_message=message,
            revision=revision,
            create_pr=create_pr,
        )
        if tag:
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
    return str(commit.pr_url or commit.commit_url)


def push_space(
    folder: Path,
    repo_id: str,
    *,
    private: bool = False,
    dry_run: bool = False,
    message: str = "Upload the page",
    token: str | None = None,
) -> str | None:
    """Publish a folder that is a page as a static Space; arguments as those of `push_folder`."""
    if dry_run:
        with _clear_errors(repo_id):
            validate_repo_id(repo_id)
        return None
    repo_id = open_repository(repo_id, private=private, token=token, space_sdk="static")
    with _clear_errors(repo_id):
        commit = HfApi(token=token).upload_folder(
            repo_id=repo_id, folder_path=folder, repo_type="space", commit_message=message
        )
    return str(commit.commit_url)


def open_repository(
    repo_id: str,
    *,
    private: bool = False,
    token: str | None = None,
    write: bool = True,
    space_sdk: str | None = None,
) -> str:
    """See that a push will be let in, make the repository if need be, and name it with its owner.

    The first arguments are those of `push_folder`; `write` asks for a token that may write there;
    with a `space_sdk` it is a Space of this kind, else a model.

    Raises:
        InputError: a name that cannot be, or what the Hub refused and why.
    """
    api, kind = HfApi(token=token), "space" if space_sdk else None
    asked: dict[str, Any] = {"private": private or None, "space_sdk": space_sdk}
    with _clear_errors(repo_id):
        made = api.create_repo(repo_id, exist_ok=True, repo_type=kind, **asked)
        if write:  # one that exists may be somebody else's
            api.auth_check(made.repo_id, write=True, repo_type=kind)
    return str(made.repo_id)


class BackgroundPush:
    """Pushes releases as `push_folder` does, while other work goes on, one at a time."""

    def __init__(self, repo_id: str, *, private: bool = False, token: str | None = None) -> None:
        self.repo_id, self.private, self.token = repo_id, private, token
        self._api = HfApi()
        self._last: Future[None] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether the last push is still on its way."""
        return self._last is not None and not self._last.done()

    def start(self, folder: Path, message: str) -> None:
        """Push a folder and remove it; what goes wrong is a warning, for the work to go on."""
        self._last = self._api.run_as_future(self._push, folder, message)

    def wait(self) -> None:
        """Wait until nothing is on its way."""
        if self._last is not None:
            self._last.result()

    def _push(self, folder: Path, message: str) -> None:
        try:
            url = push_folder(
                folder, self.repo_id, private=self.private, token=self.token, message=message
            )
            logger.info("%s is published: %s", message, url)
        except Exception as error:
            logger.warning("%s was not published: %s", message, first_line(error))
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _travelling_code(folder: Path, entries: Iterable[str]) -> list[str]:
    """The files of `auto_map`'s entries and, all the way down, those that they import."""
    found: set[str] = set()
    queue = [entry.partition(".")[0] + ".py" for entry in entries]
    while queue:
        name = queue.pop()
        if name not in found and (folder / name).is_file():
            queue += [f"{module}.py" for module in get_relative_imports(folder / name)]
        found.add(name)
    return sorted(found)


def _addition(path: Path, repo_id: str) -> CommitOperationAdd:
    if path.name not in ("README.md", "notebook.ipynb"):
        return CommitOperationAdd(path.name, path)
    text = path.read_text(encoding="utf-8").replace(REPO_PLACEHOLDER, repo_id)
    return CommitOperationAdd(path.name, text.encode())


@contextmanager
def _clear_errors(repo_id: str) -> Iterator[None]:
    """Turn what the Hub and its client complain of into one line that says what to do."""
    try:
        yield
    except HFValidationError as error:
        raise InputError(first_line(error)) from None
    except LocalTokenNotFoundError:
        reason = "the Hub wants to know who pushes: run `hf auth login`, or set HF_TOKEN"
        raise InputError(reason) from None
    except OfflineModeIsEnabled:
        raise InputError("HF_HUB_OFFLINE is set: unset it to push to the Hub") from None
    except HfHubHTTPError as error:
        status = error.response.status_code
        said = error.server_message or first_line(error)
        reasons = {
            401: "the token is missing or not valid: run `hf auth login`, or set HF_TOKEN",
            403: "the token may not write there: make one with write access, or name another owner",
            404: "no such repository or revision",
            409: "the name is taken",
        }
        reason = reasons.get(status, "nothing is lost here, try again later")
        raise InputError(f"cannot push to {repo_id}: {reason} (HTTP {status}: {said})") from None
    except RuntimeError as error:  # what the client puts around the failure of a large file
        if error.__cause__ is None:
            raise
        with _clear_errors(repo_id):
            raise error.__cause__ from None
    except (HTTPError, OSError) as error:
        raise InputError(
            f"cannot push to {repo_id}: the connection failed ({first_line(error)}); the folder is "
            "as it was, so try again"
        ) from None
