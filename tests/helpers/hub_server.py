"""A Hub on the loopback interface, in memory, for the unmodified `huggingface_hub` client.

As much of the Hub's protocol as pushing, pulling and streaming of models and data sets needs:
repositories with branches, tags and pull requests, regular and large files (LFS, or Xet with a
local folder as its store), tokens and their rights. `HF_ENDPOINT` is read when `huggingface_hub` is
imported, so clients are processes of their own: see `HubServer.environment`. To try it by hand:

    python -m tests.helpers.hub_server --port 8000 --xet_store /tmp/xet
"""

import argparse
import base64
import hashlib
import json
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.helpers.hub_store import Blob, RefusedError, Repo, read_shards

# Token, its owner, and what it may do.
TOKENS = {
    "hf_alice": ("alice", "write"),
    "hf_reader": ("alice", "read"),
    "hf_bob": ("bob", "write"),
}
LARGE_SUFFIXES = (".safetensors", ".parquet", ".bin", ".arrow")
KINDS = {"model": "models", "dataset": "datasets", "space": "spaces"}


class HubServer:
    """Listens on a free port until it is closed.

    Args:
        port: 0: any that is free.
        xet_store: a folder: large files go there by Xet, instead of here by LFS.

    Attributes:
        repos: by kind and name.
        large: content of large files by SHA-256.
        calls: method and path of each request.
        refuse: for a part of a path, the status with which such requests are refused.
        drop: parts of paths; such requests are broken off without an answer.
    """

    def __init__(self, port: int = 0, xet_store: Path | None = None) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.calls: list[str] = []
        self.refuse: dict[str, int] = {}
        self.drop: set[str] = set()
        self.xet_store = xet_store
        self.lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Listen no more; calling it twice does no harm."""
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str | None = "hf_alice") -> dict[str, str]:
        """The variables of a process that takes this for the Hub, and has nothing stored."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_TELEMETRY": "1"}
        xet = {} if self.xet_store else {"HF_HUB_DISABLE_XET": "1"}
        return {**kept, **ours, **xet, **({"HF_TOKEN": token} if token else {})}

    def files(self, name: str, revision: str = "main", kind: str = "model") -> dict[str, bytes]:
        """What a revision holds."""
        repo = self.repos[kind, name]
        blobs = repo.commits[repo.resolve(revision)]
        return {path: self.content(blob) for path, blob in blobs.items()}

    def content(self, blob: Blob) -> bytes:
        """The bytes of a file, wherever they are."""
        if not blob.sha256:
            return blob.data
        if blob.sha256 not in self.large:
            self.large[blob.sha256] = self._from_xet(blob)
        return self.large[blob.sha256]

    def _from_xet(self, blob: Blob) -> bytes:
        """Have Xet's own client put the pieces together."""
        from hf_xet import XetFileInfo, XetSession

        endpoint, expiry = f"local://{self.xet_store}", int(time.time()) + 3600
        with tempfile.TemporaryDirectory() as folder:
            with XetSession().new_file_download_group(endpoint, "xet", expiry) as group:
                info = XetFileInfo(self.xet_hash(blob), blob.size)
                group.start_download_file(info, f"{folder}/file")
            return Path(folder, "file").read_bytes()

    def xet_hash(self, blob: Blob) -> str | None:
        """Xet's name of a large file, from the shards in the store."""
        if not self.xet_store or not blob.sha256:
            return None
        return read_shards(self.xet_store).get(blob.sha256)


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self.answer()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET

    def answer(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(url.query).items()}
        hub.calls.append(f"{self.command} {url.path}")
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            while size := int(self.rfile.readline(), 16):
                self.body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        if any(part in url.path for part in hub.drop):
            self.close_connection = True
            return
        try:
            refused = [status for part, status in hub.refuse.items() if part in url.path]
            if refused:
                raise RefusedError(refused[0], "so says the server")
            self.route(url.path)
        except RefusedError as error:
            headers = {"X-Error-Code": error.code, "X-Error-Message": str(error)}
            headers = {name: value for name, value in headers.items() if value}
            self.send(error.status, {"error": str(error), **error.values}, headers)

    def route(self, path: str) -> None:
        """Find what a path is for and do it."""
        for pattern, do in ROUTES:
            if match := re.fullmatch(pattern, path):
                with self.hub.lock:
                    do(self, **{name: unquote(x or "") for name, x in match.groupdict().items()})
                return
        raise RefusedError(404, f"no such route: {path}")

    def send(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        headers = {"Content-Type": "application/json", **(headers or {})}
        for name, text in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    # --- who asks, and for what ------------------------------------------------------------------

    @property
    def user(self) -> tuple[str, str]:
        """Who asks and what he may do; nobody without a token."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in TOKENS:
            raise RefusedError(401, "Invalid username or password.")
        return TOKENS.get(token, ("", "read"))

    def may_write(self, name: str) -> bool:
        return self.user == (name.split("/")[0], "write")

    def repo(self, kind: str, name: str, write: bool = False) -> Repo:
        repo = self.hub.repos.get((kind, name))
        if repo is None or (repo.private and self.user[0] != name.split("/")[0]):
            status = 404 if self.user[0] else 401
            raise RefusedError(status, "Repository not found", "RepoNotFound")
        if write and not self.may_write(name):
            status = 403 if self.user[0] else 401
            raise RefusedError(status, f"you may not write to {name}")
        return repo

    def json(self) -> dict[str, Any]:
        return json.loads(self.body or b"{}")

    # --- accounts and repositories ---------------------------------------------------------------

    def who(self) -> None:
        name, role = self.user
        if not name:
            raise RefusedError(401, "Invalid username or password.")
        auth = {"accessToken": {"role": role, "displayName": "test"}}
        self.send(200, {"type": "user", "name": name, "orgs": [], "auth": auth})

    def validate_card(self) -> None:
        content = self.json()["content"]
        missing = [] if re.match(r"---\n(?s:.*?)\n---\n", content) else ["no front matter"]
        errors = [{"message": message} for message in missing]
        self.send(400 if errors else 200, {"errors": errors, "warnings": []})

    def create(self) -> None:
        asked = self.json()
        owner, _ = self.user
        name = f"{asked.get('organization') or owner}/{asked['name']}"
        kind = asked.get("type") or "model"
        address = f"{self.hub.url}/{'' if kind == 'model' else KINDS[kind] + '/'}{name}"
        if not owner:
            raise RefusedError(401, "Invalid username or password.")
        if not self.may_write(name):
            raise RefusedError(403, f"you may not create {name}")
        if (kind, name) in self.hub.repos:
            raise RefusedError(409, "You already created this repo", url=address)
        repo = self.hub.repos[kind, name] = Repo(asked.get("visibility") == "private")
        repo.commit("main", {}, "initial commit")
        self.send(200, {"url": address})

    def delete(self) -> None:
        asked = self.json()
        name = f"{asked.get('organization') or self.user[0]}/{asked['name']}"
        self.repo(asked.get("type") or "model", name, write=True)
        del self.hub.repos[asked.get("type") or "model", name]
        self.send(200, {})

    def check(self, kind: str, name: str, write: str) -> None:
        self.repo(kind, name, write=bool(write))
        self.send(200, {})

    def info(self, kind: str, name: str, revision: str = "") -> None:
        repo = self.repo(kind, name)
        sha = repo.resolve(revision or "main")
        siblings = [{"rfilename": path} for path in repo.commits[sha]]
        facts = {"private": repo.private, "gated": False, "disabled": False, "tags": []}
        moment = {
            "lastModified": "2026-01-01T00:00:00.000Z",
            "createdAt": "2026-01-01T00:00:00.000Z",
        }
        counts = {"downloads": 0, "likes": 0}
        self.send(200, {"id": name, "sha": sha, "siblings": siblings, **facts, **moment, **counts})

    def list_refs(self, kind: str, name: str) -> None:
        groups: dict[str, list[dict[str, str]]] = {"branches": [], "tags": [], "pullRequests": []}
        for ref, sha in self.repo(kind, name).refs.items():
            group = "pullRequests" if ref.startswith("refs/pr/") else "branches"
            group = "tags" if ref.startswith("refs/tags/") else group
            short = ref.removeprefix("refs/tags/")
            groups[group].append({"name": short, "ref": ref, "targetCommit": sha})
        self.send(200, {**groups, "converts": []})

    def add_ref(self, kind: str, name: str, what: str, revision: str) -> None:
        repo = self.repo(kind, name, write=True)
        start = self.json().get("startingPoint") or "main"
        ref, source = (revision, start) if what == "branch" else (self.json()["tag"], revision)
        if ref in repo.refs:
            raise RefusedError(409, f"Reference already exists: {ref}")
        repo.refs[ref] = repo.resolve(source)
        self.send(200, {})

    # --- files -----------------------------------------------------------------------------------

    def entry(self, path: str, blob: Blob) -> dict[str, Any]:
        entry = {"type": "file", "oid": blob.oid, "size": blob.size, "path": path}
        if blob.sha256:
            entry["lfs"] = {"oid": blob.sha256, "size": blob.size, "pointerSize": 130}
        if xet := self.hub.xet_hash(blob):
            entry["xetHash"] = xet
        return entry

    def tree(self, kind: str, name: str, revision: str, path: str = "") -> None:
        repo = self.repo(kind, name)
        prefix = f"{path}/" if path else ""
        blobs = repo.commits[repo.resolve(revision)]
        inside = {key: blob for key, blob in blobs.items() if key.startswith(prefix)}
        if path and not inside:
            raise RefusedError(404, f"{path} does not exist", "EntryNotFound")
        parents = {str(p) for key in inside for p in list(Path(key).parents)[:-1]}
        folders = sorted(p for p in parents if p.startswith(prefix))
        found = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in folders]
        found += [self.entry(key, blob) for key, blob in inside.items()]
        if self.query.get("recursive", "false").lower() not in ("true", "1"):
            found = [item for item in found if "/" not in item["path"][len(prefix) :]]
        self.send(200, found)

    def paths_info(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name)
        blobs = repo.commits[repo.resolve(revision)]
        if "json" in self.headers.get("Content-Type", ""):
            paths = self.json()["paths"]
        else:
            paths = parse_qs(self.body.decode())["paths"]
        found = [self.entry(path, blobs[path]) for path in paths if path in blobs]
        folders = [p for p in paths if any(key.startswith(f"{p}/") for key in blobs)]
        found += [{"type": "directory", "oid": "0" * 40, "size": 0, "path": p} for p in folders]
        self.send(200, found)

    def download(self, prefix: str, name: str, revision: str, path: str) -> None:
        kind = prefix.rstrip("s/") or "model"
        repo = self.repo(kind, name)
        sha = repo.resolve(revision)
        blob = repo.commits[sha].get(path)
        headers = {"X-Repo-Commit": sha, "Accept-Ranges": "bytes"}
        headers["Content-Type"] = "application/octet-stream"
        if blob is None:
            raise RefusedError(404, f"{path} does not exist", "EntryNotFound")
        headers["ETag"] = f'"{blob.sha256 or blob.oid}"'
        if blob.sha256:
            headers |= {"X-Linked-Etag": headers["ETag"], "X-Linked-Size": str(blob.size)}
        if xet := self.hub.xet_hash(blob):
            route = f"{self.hub.url}/api/{KINDS[kind]}/{name}/xet-read-token/{sha}"
            headers |= {"X-Xet-Hash": xet, "X-Xet-Refresh-Route": route}
        if self.command == "HEAD":
            return self.send(200, b"", {**headers, "Content-Length": str(blob.size)})
        content = self.hub.content(blob)
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first = int(asked[1]) if asked[1] else max(0, blob.size - int(asked[2]))
            last = min(blob.size - 1, int(asked[2]) if asked[1] and asked[2] else blob.size - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{blob.size}"
            return self.send(206, content[first : last + 1], headers)
        return self.send(200, content, headers)

    # --- commits ---------------------------------------------------------------------------------

    def preupload(self, kind: str, name: str, revision: str) -> None:
        repo = self.repo(kind, name, write="create_pr" not in self.query)
        present = repo.commits[repo.resolve(revision)]
        answers = []
        for asked in self.json()["files"]:
            large = asked["path"].endswith(LARGE_SUFFIXES) or asked["size"] > 10_000_000
            mode = "lfs" if large else "regular"
            answer = {"path": asked["path"], "uploadMode": mode, "shouldIgnore": False}
            if blob := present.get(asked["path"]):
                answer["oid"] = blob.sha256 or blob.oid
            answers.append(answer)
        self.send(200, {"files": answers})

    def batch(self, name: str) -> None:
        objects = []
        for asked in self.json()["objects"]:
            known = asked["oid"] in self.hub.large
            href = f"{self.hub.url}/large/{asked['oid']}"
            actions = {"upload": {"href": href}, "verify": {"href": f"{href}/verify"}}
            objects.append({**asked, **({} if known else {"actions": actions})})
        self.send(200, {"transfer": "basic", "objects": objects})

    def store(self, sha256: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != sha256:
            raise RefusedError(400, "the content is not what was announced")
        self.hub.large[sha256] = self.body
        self.send(200, {})

    def verify(self, sha256: str) -> None:
        if len(self.hub.large.get(sha256, b"")) != self.json()["size"]:
            raise RefusedError(400, "the content did not arrive")
        self.send(200, {})

    def xet_token(self, kind: str, name: str, access: str, revision: str) -> None:
        self.repo(kind, name, write=access == "write" and "create_pr" not in self.query)
        if self.hub.xet_store is None:
            raise RefusedError(404, "this Hub has no Xet")
        url, expiry = f"local://{self.hub.xet_store}", int(time.time()) + 3600
        names = ("X-Xet-Cas-Url", "X-Xet-Access-Token", "X-Xet-Token-Expiration")
        headers = dict(zip(names, (url, "xet", str(expiry)), strict=True))
        self.send(200, {"casUrl": url, "accessToken": "xet", "exp": expiry}, headers)

    def commit(self, kind: str, name: str, revision: str) -> None:
        create_pr = "create_pr" in self.query
        repo = self.repo(kind, name, write=not create_pr)
        parent = repo.resolve(revision)
        files, message = dict(repo.commits[parent]), ""
        for line in self.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, parent):
                    raise RefusedError(412, "A commit has happened since")
            elif key == "file":
                data = base64.b64decode(value["content"])
                files[value["path"]] = Blob(len(data), data)
            elif key == "lfsFile":
                blob = Blob(value["size"], sha256=value["oid"])
                if blob.sha256 not in self.hub.large and not self.hub.xet_hash(blob):
                    raise RefusedError(400, f"{value['path']} was not uploaded")
                files[value["path"]] = blob
            elif key == "deletedFile":
                files.pop(value["path"], None)
            elif key == "deletedFolder":
                folder = value["path"].rstrip("/") + "/"
                files = {path: b for path, b in files.items() if not path.startswith(folder)}
        number = 1 + sum(ref.startswith("refs/pr/") for ref in repo.refs)
        sha = repo.commit(f"refs/pr/{number}" if create_pr else revision, files, message)
        address = f"{self.hub.url}/{'' if kind == 'model' else KINDS[kind] + '/'}{name}"
        answer = {"commitOid": sha, "commitUrl": f"{address}/commit/{sha}", "success": True}
        if create_pr:
            answer["pullRequestUrl"] = f"{address}/discussions/{number}"
        self.send(200, answer)


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_REPO = rf"/api/(?P<kind>model|dataset|space)s/{_NAME}"
_REVISION = r"(?P<revision>[^/]+)"
ROUTES: list[tuple[str, Callable[..., None]]] = [
    (r"/api/whoami-v2", _Handler.who),
    (r"/api/validate-yaml", _Handler.validate_card),
    (r"/api/repos/create", _Handler.create),
    (r"/api/repos/delete", _Handler.delete),
    (_REPO, _Handler.info),
    (rf"{_REPO}/revision/{_REVISION}", _Handler.info),
    (rf"{_REPO}/auth-check(?P<write>/write)?", _Handler.check),
    (rf"{_REPO}/refs", _Handler.list_refs),
    (rf"{_REPO}/(?P<what>branch|tag)/{_REVISION}", _Handler.add_ref),
    (rf"{_REPO}/tree/{_REVISION}(/(?P<path>.+))?", _Handler.tree),
    (rf"{_REPO}/paths-info/{_REVISION}", _Handler.paths_info),
    (rf"{_REPO}/preupload/{_REVISION}", _Handler.preupload),
    (rf"{_REPO}/commit/{_REVISION}", _Handler.commit),
    (rf"{_REPO}/xet-(?P<access>read|write)-token/{_REVISION}", _Handler.xet_token),
    (rf"/(?:datasets/|spaces/)?{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"/large/(?P<sha256>\w+)", _Handler.store),
    (r"/large/(?P<sha256>\w+)/verify", _Handler.verify),
    (
        rf"/(?P<prefix>datasets/|spaces/)?{_NAME}/resolve/{_REVISION}/(?P<path>.+)",
        _Handler.download,
    ),
]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A Hub on the loopback interface, in memory.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--xet_store", type=Path)
    options = parser.parse_args()
    server = HubServer(options.port, options.xet_store)
    print(server.url, "tokens:", ", ".join(TOKENS), flush=True)  # noqa: T201
    threading.Event().wait()
