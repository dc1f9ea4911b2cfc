"""What the tests of kernels share."""

import pytest


@pytest.fixture
def refusals(monkeypatch) -> list[str]:
    """What the kernel did not take, and why."""
    from bahdanau_hf.gpu import triton_recurrence

    reasons: list[str] = []
    monkeypatch.setattr(triton_recurrence.logger, "warning_once", reasons.append)
    return reasons
