"""From files of pairs to batches; `datasets` is imported when pairs are first asked for."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .sources import bundled_pairs


def __getattr__(name: str) -> Any:
    if name == "bundled_pairs":
        from .sources import bundled_pairs

        return bundled_pairs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["bundled_pairs"]
