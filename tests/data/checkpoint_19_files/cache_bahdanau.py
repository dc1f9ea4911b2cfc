"""What one decoding step hands to the next: the decoder's state and the source side."""

from dataclasses import fields

import torch
from torch import Tensor
from transformers import Cache
from transformers.modeling_outputs import Seq2SeqLMOutput

from .recurrence_bahdanau import Memory, Prepared

# By which name the library's search hands a cache on: transformers 5.24 has renamed it.
CACHE = next(f.name for f in fields(Seq2SeqLMOutput) if f.name in ("cache", "past_key_values"))


class BahdanauCache(Cache):
    """State of a translation under way; its size does not grow with the output.

    Attributes:
        state: the layers' states after the steps so far, `(B, L, H)`; `None` before the first.
        memory: the source side, projected once per sentence.
        prepared: the decoder's weights as the fast path reads them.
    """

    def __init__(self) -> None:
        super().__init__(layers=[])
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.state: Tensor | None = None
        self.memory: Memory | None = None
        self.prepared: Prepared | None = None
        self._num_steps = 0

    def update_state(self, state: Tensor, num_steps: int) -> None:
        """Keep the state, `(B, L, H)`, after `num_steps` more steps."""
        self.state = state
        self._num_steps += num_steps

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the number of steps taken."""
        return self._num_steps

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Return -1: a recurrent state has no maximum length."""
        return -1

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row i go on from row `beam_idx[i]`.

        Beams of one sentence share their source, so only the state moves.
        """
        if self.state is not None:
            self.state = self.state.index_select(0, beam_idx.to(self.state.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times, copies side by side."""
        rows = torch.arange(self.batch_size).repeat_interleave(repeats)
        self.batch_select_indices(rows)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows, state and source."""
        self.reorder_cache(indices)
        if self.memory is not None:
            self.memory = Memory._make(
                None if x is None else x.index_select(0, indices.to(x.device)) for x in self.memory
            )

    def crop(self, tokens_to_remove: int) -> None:
        """Refuse: the past cannot be taken out of a recurrent state."""
        raise ValueError("a recurrent state cannot be cropped; start again from the first token")

    def __len__(self) -> int:
        return 0 if self.state is None else self.state.shape[1]

    @property
    def batch_size(self) -> int:
        """Rows held."""
        return 0 if self.state is None else self.state.shape[0]

    @property
    def is_initialized(self) -> bool:
        """Whether a step has been taken."""
        return self.state is not None

    # The library must not trace, crop or slide this cache.
    is_compileable = False
    is_croppable = False
    is_sliding = ()
    is_linear = ()
    is_dummy = ()

    def __repr__(self) -> str:
        return f"BahdanauCache(batch_size={self.batch_size}, steps={self._num_steps})"
