"""Sources as people type them: without the final mark, with a slip of the fingers."""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Sequence
from itertools import takewhile

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from ..languages import CJK
from .batching import NO_LINK, Batch
from .tokenization import PAD_ID, UNK_ID

_WORD = re.compile(rf"[^\W\d_{CJK}]{{4,}}")
_READ_ALOUD = "%‰#&@*"  # punctuation to Unicode


def without_final_mark(text: str) -> str:
    """The text without the punctuation at its end; as it is, if it is nothing else."""
    rest = text
    while rest and unicodedata.category(rest[-1])[0] == "P" and rest[-1] not in _READ_ALOUD:
        rest = rest[:-1].rstrip()
    return rest or text


def with_slip(text: str, draw: random.Random) -> str:
    """One word of four letters or more with two letters swapped, one left out or one doubled.

    The first letter stays, as it mostly does. A text without such a word stays whole.
    """
    words = list(_WORD.finditer(text))
    if not words:
        return text
    word = draw.choice(words)
    place = draw.randrange(word.start() + 1, word.end() - 1)
    a, b = text[place], text[place + 1]
    slip = draw.choice([b, a + a + b, *([b + a] if a != b else [])])
    return text[:place] + slip + text[place + 2 :]


class SourceNoise:
    """Takes the final mark from a `share` of a batch's sources, and gives a `share` one slip.

    Which ones depends on `seed` and on the pairs of the batch: another epoch has other noise, a
    resumed run the same. The batch keeps its shape: a source that would outgrow it, or has an
    unknown token, stays as it is.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, share: float, seed: int) -> None:
        # Its own: a translation may set the other's padding at the same time.
        self.tokenizer = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self.tokenizer.no_padding()
        self.tokenizer.no_truncation()
        self.share, self.seed = share, seed

    def __call__(self, batch: Batch) -> Batch:
        """Change `input_ids`, `attention_mask`, and with them `best_sources`, in place."""
        ids, mask = batch["input_ids"], batch["attention_mask"]
        draw = random.Random(str(self.seed).encode() + ids.numpy().tobytes())
        for i, length in enumerate(mask.sum(1).tolist()):
            for change in (without_final_mark, lambda text: with_slip(text, draw)):
                old = ids[i, :length].tolist()
                if draw.random() >= self.share or UNK_ID in old:
                    continue
                text = self.tokenizer.decode(old)
                changed = change(text)
                new = self.tokenizer.encode(changed).ids
                if changed == text or len(new) > ids.shape[1]:
                    continue
                length = len(new)
                ids[i, :length], ids[i, length:] = torch.tensor(new), PAD_ID
                mask[i] = torch.arange(ids.shape[1]) < length
                if "best_sources" in batch:
                    _move_links(batch["best_sources"][i], old, new)
        return batch


def _move_links(links: torch.Tensor, old: list[int], new: list[int]) -> None:
    """Point to the same tokens of `new` as of `old`; where they differ, to the first that does."""
    first = _num_equal(old, new)
    num_behind = _num_equal(old[first:][::-1], new[first:][::-1])
    is_behind, is_kept = links >= len(old) - num_behind, links < first
    links[is_behind] += len(new) - len(old)
    links[~is_behind & ~is_kept] = first if len(new) - num_behind > first else NO_LINK


def _num_equal(a: Sequence[int], b: Sequence[int]) -> int:
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False))))
