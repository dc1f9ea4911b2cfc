"""Four sentences with their translations, as a batch padded on any side."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

SOURCES = [[5, 16, 2], [9, 2], [4, 8, 15, 12, 7, 2], [11, 2]]
TARGETS = [[6, 12, 3, 2], [2], [7, 4, 4, 9, 2], [10, 5, 2]]
SIDES = ["right", "left", "both"]
CLOSE = {"rtol": 1e-9, "atol": 1e-11}  # float64, summed in another order


def pad(rows: list[list[int]], side: str, fill: int = 0, extra: int = 1) -> tuple[Tensor, Tensor]:
    """Rows side by side, and 1 where they are real; `extra` more columns than needed."""
    width = max(map(len, rows)) + extra
    ids, mask = torch.full((len(rows), width), fill), torch.zeros(len(rows), width).long()
    for i, row in enumerate(rows):
        free = width - len(row)
        begin = {"right": 0, "left": free, "both": free // 2}[side]
        ids[i, begin : begin + len(row)] = torch.tensor(row)
        mask[i, begin : begin + len(row)] = 1
    return ids, mask


def batch(side: str = "right") -> dict[str, Tensor]:
    ids, mask = pad(SOURCES, side)
    labels, _ = pad(TARGETS, "right", fill=-100)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def source(side: str = "right", rows: list[list[int]] = SOURCES) -> dict[str, Tensor]:
    ids, mask = pad(rows, side)
    return {"input_ids": ids, "attention_mask": mask}


def random_source(model: PreTrainedModel, B: int, S: int) -> tuple[Tensor, Tensor]:
    """Random ids, with padding on either side of some rows."""
    ids = torch.randint(model.config.encoder_vocab_size, (B, S))
    mask = torch.ones_like(ids)
    for row in range(1, B):
        padding = int(torch.randint(S, ()))
        mask[row, :padding] = 0
        mask[row] = mask[row].flip(0) if row % 2 else mask[row]
    return ids, mask
