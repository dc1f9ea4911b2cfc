"""The searches of `generate` as CUDA graphs.

A step is some dozens of short kernels, and starting each takes longer than it runs; a graph starts
them all at once. It reads and writes the addresses that it was recorded with, so the searches have
rooms of fixed size for everything: batches, sources and outputs are padded to the next size that
there is a search for. The weights are read where the parameters lie, at each call anew: training
between two calls is seen, and parameters that were moved are noticed.

Without a GPU the same bodies run as they are; that is how they are tested.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .decoder_bahdanau import BahdanauDecoder
from .decoding_bahdanau import beam_search, greedy_search
from .static_bahdanau import BeamSearch, GreedySearch, Plan, Search

ASK_EVERY = (
    8  # steps between two looks at whether all sentences have ended: each makes the GPU wait
)
MOST_SEARCHES = 8  # that a decoder keeps, each with its rooms; the longest unused goes first
SOURCE_STEP, OUTPUT_STEP = 16, 64  # tokens that rooms grow by


def capture(search: Search) -> tuple[Callable[[], None], Callable[[], None]]:
    """Record both bodies of a search as CUDA graphs; without a GPU they stay what they are."""
    if search.plan.device.type != "cuda":
        return search.begin, search.step
    with torch.cuda.device(search.plan.device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # libraries set themselves up when they are first called
            search.begin()
            search.step()
            search.step()
        torch.cuda.current_stream().wait_stream(stream)
        begin, step = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
        mode = "thread_local"  # other threads may use the device meanwhile
        with torch.cuda.graph(begin, capture_error_mode=mode):
            search.begin()
        pool = begin.pool()  # what `begin` made lives there
        with torch.cuda.graph(step, pool=pool, capture_error_mode=mode):
            search.step()
    return begin.replay, step.replay


class _Searches:
    """The searches of a decoder. Copies of the model begin without any."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._kept: OrderedDict[Plan, tuple[Search, tuple[Callable[[], None], ...]]] = OrderedDict()
        self._addresses: list[tuple] = []

    def __deepcopy__(self, memo: dict) -> "_Searches":
        return _Searches()

    def __reduce__(self) -> tuple:
        return _Searches, ()

    def find(
        self, kind: type[Search], decoder: BahdanauDecoder, head: torch.nn.Linear, plan: Plan
    ) -> tuple[Any, tuple[Callable[[], None], ...]]:
        """The search for a plan with its bodies, made if there is none for the parameters."""
        parameters = (*decoder.parameters(), *head.parameters())
        addresses = [(p.data_ptr(), p.dtype, p.shape) for p in parameters]
        if addresses != self._addresses:
            self._kept.clear()
            self._addresses = addresses
        if plan not in self._kept:
            while len(self._kept) >= MOST_SEARCHES:
                self._kept.popitem(last=False)
            search = kind(decoder, head, plan)
            self._kept[plan] = search, capture(search)
        self._kept.move_to_end(plan)
        return self._kept[plan]


def _run(
    kind: type[Search],
    decoder: BahdanauDecoder,
    head: torch.nn.Linear,
    input_ids: Tensor,
    encoder_outputs: dict,
    attention_mask: Tensor | None,
    max_length: int,
    eos_token_ids: Tensor | None,
    fill_token_id: int,
    num_beams: int,
    result: Callable[[Any], Tensor],
    **rules: Any,
) -> Tensor:
    """Search on the rooms of the smallest plan that the call fits in."""
    annotations = encoder_outputs["last_hidden_state"]
    device = annotations.device
    autocast = torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(device.type) if autocast else None
    plan = Plan(
        batch_size=1 << (annotations.shape[0] // num_beams - 1).bit_length(),
        source_length=-(-annotations.shape[1] // SOURCE_STEP) * SOURCE_STEP,
        output_length=-(-max_length // OUTPUT_STEP) * OUTPUT_STEP,
        num_beams=num_beams,
        dtype=annotations.dtype,
        product_dtype=dtype or decoder.embed_tokens.weight.dtype,
        device=device,
        eos_token_ids=() if eos_token_ids is None else tuple(eos_token_ids.flatten().tolist()),
        fill_token_id=fill_token_id,
        **rules,
    )
    searches = decoder.__dict__.get("_searches")
    if searches is None:
        searches = decoder._searches = _Searches()
    with (
        searches.lock,
        torch.inference_mode(False),  # the rooms are for calls of either kind
        torch.no_grad(),
        # A weight that autocast remembers would lie elsewhere the next time.
        torch.autocast(device.type, dtype, enabled=autocast, cache_enabled=False),
    ):
        search, (begin, step) = searches.find(kind, decoder, head, plan)
        search.read(input_ids[:, 0], encoder_outputs, attention_mask, max_length)
        begin()
        for taken in range(1, max_length):
            step()
            if taken % ASK_EVERY == 0 and search.is_done():
                break
        return result(search)


def graphed_greedy_search(
    decoder: BahdanauDecoder,
    head: torch.nn.Linear,
    input_ids: Tensor,
    encoder_outputs: dict,
    attention_mask: Tensor | None,
    max_length: int,
    eos_token_ids: Tensor | None,
    pad_token_id: int,
) -> Tensor:
    """Do what `greedy_search` does, which also takes longer beginnings and 8-bit products."""
    given = (decoder, head, input_ids, encoder_outputs, attention_mask, max_length, eos_token_ids)
    if input_ids.shape[1] != 1 or max_length < 2 or decoder.int8:
        return greedy_search(*given, pad_token_id)
    batch_size = input_ids.shape[0]
    return _run(
        GreedySearch, *given, pad_token_id, 1, result=lambda search: search.result(batch_size)
    )


def graphed_beam_search(
    decoder: BahdanauDecoder,
    head: torch.nn.Linear,
    input_ids: Tensor,
    encoder_outputs: dict,
    attention_mask: Tensor | None,
    max_length: int,
    eos_token_ids: Tensor | None,
    fill_token_id: int,
    num_beams: int,
    num_return_sequences: int,
    length_penalty: float,
    early_stopping: bool | str,
) -> Tensor:
    """Do what `beam_search` does, which also takes longer beginnings and 8-bit products."""
    given = (
        decoder, head, input_ids, encoder_outputs, attention_mask, max_length, eos_token_ids,
        fill_token_id, num_beams,
    )  # fmt: skip
    if input_ids.shape[1] != 1 or max_length < 2 or decoder.int8:
        return beam_search(*given, num_return_sequences, length_penalty, early_stopping)
    batch_size = input_ids.shape[0] // num_beams
    return _run(
        BeamSearch,
        *given,
        result=lambda search: search.result(batch_size, num_return_sequences),
        length_penalty=length_penalty,
        early_stopping=early_stopping,
    )
