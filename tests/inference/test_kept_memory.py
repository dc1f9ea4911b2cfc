"""What the C library keeps is given back when it becomes much."""

import psutil
import pytest

from bahdanau_hf.inference import kept_memory
from bahdanau_hf.inference.kept_memory import MOST_KEPT, KeptMemory


@pytest.fixture
def held(monkeypatch) -> list[int]:
    """What the process holds; to trim brings it back to the first number."""
    held = [1000 << 20]
    monkeypatch.setattr(kept_memory, "_bytes_held", lambda: held[-1])
    trim = lambda: held.append(held[0])  # noqa: E731
    monkeypatch.setattr(psutil, "heap_trim", trim, raising=False)
    return held


def test_it_is_given_back_when_the_process_has_grown_by_much(held) -> None:
    kept = KeptMemory()
    held.append(held[0] + MOST_KEPT)
    assert not kept.give_back()
    held.append(held[0] + MOST_KEPT + 1)
    assert kept.give_back()
    assert held[-1] == held[0]
    assert not kept.give_back()


def test_growth_counts_from_the_least_that_was_held(held) -> None:
    kept = KeptMemory()
    held.append(held[0] - MOST_KEPT)
    assert not kept.give_back()
    held.append(held[0] + 1)
    assert kept.give_back()


def test_what_stays_is_asked_for_once(held, monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(psutil, "heap_trim", lambda: asked.append(True))
    kept = KeptMemory()
    held.append(held[0] + 2 * MOST_KEPT)
    assert [kept.give_back(), kept.give_back()] == [True, False]
    assert len(asked) == 1


def test_an_older_psutil_cannot_do_it(held, monkeypatch) -> None:
    monkeypatch.delattr(psutil, "heap_trim")
    kept = KeptMemory()
    held.append(held[0] + 2 * MOST_KEPT)
    assert not kept.give_back()
