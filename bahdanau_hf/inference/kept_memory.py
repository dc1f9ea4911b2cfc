"""Memory that the C library keeps for later, given back before it becomes much.

Batches want pieces of ever new sizes, and between freed ones lie small objects that stay: the free
ones fit less and less, and the process grows. To fetch what was given back costs time.
"""

from __future__ import annotations

import psutil  # type: ignore[import-untyped]

MOST_KEPT = 256 << 20  # bytes; to fetch as many again takes a tenth of a second at the worst


class KeptMemory:
    """Watches what this process holds, beginning now."""

    def __init__(self) -> None:
        self._least = _bytes_held()

    def give_back(self) -> bool:
        """Ask for free memory to be given back, and say so, after growth by over `MOST_KEPT`."""
        held = _bytes_held()
        self._least = min(self._least, held)
        if held - self._least <= MOST_KEPT or not hasattr(psutil, "heap_trim"):  # before 7.2
            return False
        psutil.heap_trim()
        self._least = _bytes_held()
        return True


def _bytes_held() -> int:
    return psutil.Process().memory_info().rss
