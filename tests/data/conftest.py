"""What the tests of data share."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest


@pytest.fixture
def quiet_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The library datasets shows no bars, and keeps what it makes with the test."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()
