"""The micro-batches of a run, from any place in its data: pass after pass, or from a stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.utils.data import DataLoader

from ..checkpoints.save_load import TrainerState
from ..data.batching import LengthBucketBatchSampler, PairCollator, StreamBatcher
from ..data.preprocessing import pair_lengths
from ..errors import InputError
from .arguments import DataArguments, TrainArguments

Batch = dict[str, Tensor]


class TrainingBatches:
    """The micro-batches of this process, pass after pass, from any place in a pass.

    Args:
        encoded: training features.
        data_args: how batches are filled and padded.
        args: batch size, seed, workers.
        accelerator: rank and number of processes.
    """

    def __init__(
        self,
        encoded: Any,
        data_args: DataArguments,
        args: TrainArguments,
        accelerator: Accelerator,
    ) -> None:
        sources, targets = pair_lengths(encoded)
        by_tokens = data_args.max_tokens_per_batch is not None
        self.sampler = LengthBucketBatchSampler(
            sources,
            targets,
            batch_size=None if by_tokens else args.per_device_train_batch_size,
            max_tokens=data_args.max_tokens_per_batch,
            seed=args.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            bucket=data_args.bucket_by_length,
        )
        self.loader = DataLoader(
            encoded,
            batch_sampler=self.sampler,
            collate_fn=make_collator(data_args),
            num_workers=args.dataloader_num_workers,
            pin_memory=accelerator.device.type == "cuda",
            # Its own generator: drawing the workers' seeds must not move the one of dropout.
            generator=torch.Generator().manual_seed(args.seed),
        )

    def batches_in(self, epoch: int) -> int:
        """How many micro-batches this process has in a pass."""
        self.sampler.set_epoch(epoch)
        return len(self.sampler)

    def steps(self, state: TrainerState, per_step: int) -> Iterator[tuple[list[Batch], bool]]:
        """Yield the micro-batches of each optimizer step to the end of the present pass.

        Args:
            state: `epoch` and `batches_done` say where to begin.
            per_step: micro-batches a step; the last step of a pass may have fewer.

        Yields:
            The micro-batches, and whether the pass ends with them.
        """
        left = self.batches_in(state.epoch) - state.batches_done
        position = {"epoch": state.epoch, "batches_done": state.batches_done}
        self.sampler.load_state_dict(position)
        group: list[Batch] = []
        for batch in self.loader:
            group.append(batch)
            left -= 1
            if len(group) == per_step or left == 0:
                yield group, left == 0
                group = []

    def epochs_done(self, state: TrainerState) -> float:
        """Passes over the pairs, the present one as a fraction."""
        if state.batches_done == 0:
            return float(state.epoch)
        return round(state.epoch + state.batches_done / self.batches_in(state.epoch), 4)


class StreamedBatches:
    """The micro-batches of this process from a stream, which is one pass without end.

    Arguments as those of `TrainingBatches`.

    Raises:
        InputError: workers were asked for; they would read ahead of what is trained on.
    """

    def __init__(
        self,
        encoded: Any,
        data_args: DataArguments,
        args: TrainArguments,
        accelerator: Accelerator,
    ) -> None:
        if args.dataloader_num_workers:
            raise InputError("--streaming needs --dataloader_num_workers 0")
        by_tokens = data_args.max_tokens_per_batch is not None
        self.batcher = StreamBatcher(
            encoded,
            buffer_size=data_args.shuffle_buffer_size,
            batch_size=None if by_tokens else args.per_device_train_batch_size,
            max_tokens=data_args.max_tokens_per_batch,
            seed=args.seed,
            rank=accelerator.process_index,
            world_size=accelerator.num_processes,
            bucket=data_args.bucket_by_length,
        )
        self.collator = make_collator(data_args)

    def steps(self, state: TrainerState, per_step: int) -> Iterator[tuple[list[Batch], bool]]:
        """Yield the micro-batches of each optimizer step, endlessly; see `TrainingBatches`."""
        if state.stream is not None:
            self.batcher.load_state_dict(state.stream)
        features = iter(self.batcher)
        while True:
            group = [self.collator(next(features)) for _ in range(per_step)]
            state.stream = self.batcher.state_dict()
            yield group, False

    def epochs_done(self, state: TrainerState) -> float:
        """A stream's passes are not counted."""
        return 0.0


def make_collator(data_args: DataArguments) -> PairCollator:
    """The collator that the arguments ask for."""
    lengths = (data_args.max_source_length, data_args.max_target_length)
    return PairCollator(pad_to=lengths if data_args.pad_to_max_length else None)
