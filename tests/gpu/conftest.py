"""What the tests of kernels share."""

import pytest

from bahdanau_hf.gpu import triton_recurrence


@pytest.fixture
def refusals(monkeypatch) -> list[str]:
    """What the kernel did not take, and why."""
    reasons: list[str] = []
    monkeypatch.setattr(triton_recurrence.logger, "warning_once", reasons.append)
    return reasons
