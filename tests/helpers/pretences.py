"""Another processor than the one at hand, for a while."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from bahdanau_hf.modeling.processor_bahdanau import Processor, processor

NAME = "BAHDANAU_PROCESSOR"


@contextmanager
def pretending(**answers: bool) -> Iterator[Processor]:
    """Give other answers, in all threads and in processes started here; the others stay."""
    before, whole = os.environ.get(NAME), processor()._replace(**answers)
    os.environ[NAME] = ",".join(f"{name}={answer:d}" for name, answer in whole._asdict().items())
    processor.cache_clear()
    try:
        yield processor()
    finally:
        os.environ.pop(NAME)
        if before is not None:
            os.environ[NAME] = before
        processor.cache_clear()
