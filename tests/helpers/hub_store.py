"""What the Hub of `hub_server.py` keeps: repositories, files, and where Xet has put large ones."""

import hashlib
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class RefusedError(Exception):
    """An answer that is not a success."""

    def __init__(self, status: int, message: str, code: str = "", **values: Any):
        super().__init__(message)
        self.status, self.code, self.values = status, code, values


@dataclass(frozen=True)
class Blob:
    """A file: its bytes, or the SHA-256 under which the large ones are stored."""

    size: int
    data: bytes = b""
    sha256: str = ""

    @property
    def oid(self) -> str:
        """Git's name of it, or of the pointer to it."""
        content = self.sha256.encode() if self.sha256 else self.data
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


@dataclass
class Repo:
    """A repository: what each commit holds, and which commit each branch, tag and request is."""

    private: bool
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, files: dict[str, Blob], message: str) -> str:
        sha = hashlib.sha1(f"{ref}{len(self.commits)}{message}{sorted(files)}".encode()).hexdigest()
        self.commits[sha], self.messages[sha], self.refs[ref] = files, message, sha
        return sha

    def resolve(self, revision: str) -> str:
        sha = self.refs.get(revision, revision)
        if sha not in self.commits:
            raise RefusedError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha


def read_shards(folder: Path) -> dict[str, str]:
    """SHA-256 to Xet hash of all files that the shards in a store describe.

    A shard consists of records of 48 bytes. After one of the format follow the files: for each a
    record with its hash, flags and number of segments, a record for each segment, as many again if
    the flags say so, and one with the SHA-256. A hash of ones ends them.
    """
    found = {}
    for path in folder.rglob("shards/*.mdb"):
        shard, place = path.read_bytes(), 48
        while (name := shard[place : place + 32]) not in (b"\xff" * 32, b""):
            flags, segments = struct.unpack_from("<II", shard, place + 32)
            place += 48 * (1 + segments * (2 if flags >> 31 else 1))
            if flags >> 30 & 1:
                found[_hex(shard[place : place + 32])] = _hex(name)
                place += 48
    return found


def _hex(value: bytes) -> str:
    """A hash is four numbers, the lowest byte first."""
    return "".join(f"{number:016x}" for number in struct.unpack("<4Q", value))
