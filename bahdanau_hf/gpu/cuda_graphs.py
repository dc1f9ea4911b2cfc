"""The searches of `generate` as CUDA graphs.

A step is some dozens of short kernels, and starting each takes longer than it runs; a graph starts
them all at once. It reads and writes the addresses that it was recorded with, so the searches have
rooms of fixed size for everything: batches, sources and outputs are padded to the next size that
there is a search for. The weights are read where the parameters lie, at each call anew: training
between two calls is seen, and parameters that were moved are noticed.

A step itself is that of all searches, `Beams`. What is here: its two bodies ask the device nothing,
finished sentences stay to the end, and where a step stands is itself a number on the device.
Without a GPU the same bodies run as they are; that is how they are tested.

Dimensions: B room for sentences, K beams, S room for source tokens, M room for output tokens,
V vocabulary.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..modeling import generation_bahdanau as generation
from ..modeling.generation_bahdanau import NEVER, Beams
from ..modeling.matmul_bahdanau import product_dtype
from ..modeling.modeling_bahdanau import BahdanauDecoder
from ..modeling.recurrence_bahdanau import Stepper
from .device import can_run_kernels

ASK_EVERY = 8  # steps between two looks at whether all have ended: each makes the GPU wait
MOST_SEARCHES = 16  # that a decoder keeps, each with its rooms; the longest unused goes first
SOURCE_STEP, OUTPUT_STEP = 16, 64  # tokens that rooms grow by


# --- the searches in rooms of fixed size ---------------------------------------------------------


class Plan(NamedTuple):
    """What a search was made for; another call with the same plan uses it again."""

    batch_size: int  # room for sentences
    source_length: int  # room for source tokens
    output_length: int  # room for output tokens, the start included
    num_beams: int
    dtype: torch.dtype  # of the annotations
    autocast: torch.dtype | None  # what products are narrowed to
    device: torch.device
    eos_token_ids: tuple[int, ...]
    fill_token_id: int
    length_penalty: float = 1.0
    early_stopping: bool | str = False


class Search:
    """Rooms for a call's sentences, and two bodies that work in them.

    `begin` prepares the weights and the source for the steps and puts all counters back; `step`
    takes one. Neither asks the device for anything, depends on what is found there, or sends it
    numbers (as `where` does with a plain number, and `torch.tensor`).
    """

    beams: Beams  # made by `begin`; the steps go on from what it recorded last

    def __init__(self, decoder: BahdanauDecoder, head: nn.Linear, plan: Plan):
        B, S, M, K = plan[:4]
        config, device = decoder.config, plan.device
        self.decoder, self.head, self.plan = decoder, head, plan
        room: dict[str, Any] = {"dtype": plan.dtype, "device": device}
        self.annotations = torch.zeros(B, S, config.annotation_size, **room)
        self.final_state = torch.zeros(B, config.encoder_layers, config.annotation_size, **room)
        self.mask = torch.zeros(B, S, dtype=torch.bool, device=device)
        self.is_real = torch.zeros(B, dtype=torch.bool, device=device)  # sentence, not filling
        self.done = torch.zeros_like(self.is_real)  # what stands there can change no more
        self.first = torch.zeros(B, 1, dtype=torch.long, device=device)
        # Tokens of an output at most.
        self.limit = torch.full((1,), M, dtype=torch.long, device=device)
        self.tokens = torch.zeros(B * K, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)  # of the next token
        self.eos = torch.tensor(plan.eos_token_ids, dtype=torch.long, device=device)

    def read(self, asked: generation.Search) -> None:
        """Take in a call's sentences."""
        B, S = asked.annotations.shape[:2]
        self.annotations.zero_()[:B, :S] = asked.annotations
        self.final_state.zero_()[:B] = asked.final_state
        self.mask.zero_()[:B, :S] = True if asked.mask is None else asked.mask.bool()
        self.mask[B:, 0] = True  # no row without a token to look at
        self.is_real.zero_()[:B] = True
        self.first.zero_()[:B, 0] = asked.input_ids[:, 0]
        self.limit.fill_(asked.max_length)

    def begin(self) -> None:
        """Prepare the steps."""
        autocast = self.plan.autocast
        # A weight that autocast remembers would lie elsewhere the next time.
        with torch.autocast(
            self.plan.device.type, autocast, enabled=autocast is not None, cache_enabled=False
        ):
            given = (self.decoder, self.head, self.first, self.annotations, self.final_state)
            rules = (self.mask, self.plan.output_length, None, self.plan.fill_token_id)
            self.beams = Beams(generation.Search(*given, *rules), pack=False, stepper=self._stepper)
            self.beams.widen(self.plan.num_beams)
        self.tokens.copy_(self.first.expand(-1, self.plan.num_beams).flatten())
        self.position.fill_(1)
        self.done.copy_(~self.is_real)

    def step(self) -> None:
        """Take one step: read a token in each row and choose the next."""
        raise NotImplementedError

    @property
    def _stepper(self) -> Any:
        if not can_run_kernels(self.plan.device):
            return Stepper
        from .recurrence import KernelStepper

        dtype = self.decoder.embed_tokens.weight.dtype
        return partial(KernelStepper, narrow=product_dtype(self.plan.device, dtype))

    def is_done(self) -> bool:
        """Ask the device whether nothing can change any more."""
        return bool(self.done.all())

    def _ends(self, tokens: Tensor) -> Tensor:
        return (tokens.unsqueeze(-1) == self.eos).any(dim=-1)


class GreedySearch(Search):
    """Takes the likeliest token at every step; `output` is `(B, M)`, of which `length` counts."""

    def __init__(self, decoder: BahdanauDecoder, head: nn.Linear, plan: Plan):
        super().__init__(decoder, head, plan)
        self.output = self.first.new_zeros(plan.batch_size, plan.output_length)
        self.length = torch.zeros_like(self.position)

    def begin(self) -> None:
        """Prepare the steps."""
        super().begin()
        self.output.fill_(self.plan.fill_token_id)
        self.output[:, :1].copy_(self.first)
        self.length.fill_(1)

    def step(self) -> None:
        """Take one step."""
        tokens = self.beams.likeliest(self.tokens)
        written = tokens.masked_fill(self.done, self.plan.fill_token_id)
        self.output.index_copy_(1, self.position, written.unsqueeze(1))
        self.length.add_((~self.done).any())
        self.done.logical_or_(self._ends(tokens))
        self.tokens.copy_(tokens)
        self.position.add_(1)

    def result(self, asked: generation.Search) -> Tensor:
        """The outputs `(sentences, T)`."""
        return self.output[: len(asked.annotations), : int(self.length)].clone()


class BeamSearch(Search):
    """Keeps K beginnings, by the rules of `generation_bahdanau.beam_search`.

    `running` `(B, K, M)` go on; `ended` `(B, K, M)` are the best that have ended, of `lengths`
    tokens (0: none yet), and stay as they are once a sentence is `done`.
    """

    def __init__(self, decoder: BahdanauDecoder, head: nn.Linear, plan: Plan):
        super().__init__(decoder, head, plan)
        B, _, M, K = plan[:4]
        self.running, self.ended = (self.first.new_zeros(B, K, M) for _ in range(2))
        self.lengths = self.first.new_zeros(B, K)
        self.scores, self.ended_scores = (torch.zeros(B, K, device=plan.device) for _ in range(2))
        # What a score is divided by, for each number of tokens behind the start.
        self.divisors = torch.tensor(
            [1.0] + [n**plan.length_penalty for n in range(1, M)], device=plan.device
        )
        self.row = torch.arange(B, device=plan.device).unsqueeze(1) * K  # a sentence's first beam

    def begin(self) -> None:
        """Prepare the steps."""
        super().begin()
        self.running.fill_(self.plan.fill_token_id)
        self.running[:, :, 0].copy_(self.first.expand(-1, self.plan.num_beams))
        self.ended.copy_(self.running)
        self.scores.fill_(NEVER)[:, :1].zero_()  # beams begin alike: one is enough
        self.ended_scores.fill_(NEVER)
        self.lengths.zero_()

    def step(self) -> None:
        """Take one step."""
        plan, (B, K) = self.plan, self.scores.shape
        log_probs = self.beams.logits(self.tokens).log_softmax(dim=-1)
        V = log_probs.shape[-1]
        total = (log_probs.view(B, K, V) + self.scores.unsqueeze(-1)).view(B, K * V)
        candidate_scores, index = total.topk(min(max(2, 1 + len(plan.eos_token_ids)) * K, K * V))
        origin, word = index // V, index % V
        candidates = self._rows(self.running, origin)
        candidates.index_copy_(2, self.position, word.unsqueeze(-1))
        length = self.position + 1
        ends = self._ends(word) | (length == self.limit)
        # The best K of those that have ended and those that end now.
        divisor = self.divisors.index_select(0, self.position)
        normalised = (candidate_scores[:, :K] / divisor).masked_fill(~ends[:, :K], NEVER)
        ended_scores, best = torch.cat([self.ended_scores, normalised], dim=1).topk(K)
        pool = torch.cat([self.ended, candidates[:, :K]], dim=1)
        lengths = torch.cat([self.lengths, ends[:, :K] * length], dim=1).gather(1, best)
        frozen = self.done.unsqueeze(1)
        self.ended.copy_(torch.where(frozen.unsqueeze(2), self.ended, self._rows(pool, best)))
        self.ended_scores.copy_(torch.where(frozen, self.ended_scores, ended_scores))
        self.lengths.copy_(torch.where(frozen, self.lengths, lengths))
        # The best K that go on.
        scores, choice = (candidate_scores + ends * NEVER).topk(K)
        self.scores.copy_(scores)
        self.running.copy_(self._rows(candidates, choice))
        rows = (self.row + origin.gather(1, choice)).flatten()
        self.beams.states.copy_(self.beams.states.index_select(1, rows))
        self.tokens.copy_(word.gather(1, choice).flatten())
        # Can the best of these still pass the worst that has ended?
        if plan.early_stopping == "never" and plan.length_penalty > 0:
            divisor = self.divisors.index_select(0, self.limit - 1)
        hopeless = scores[:, 0] / divisor <= self.ended_scores[:, -1]
        if plan.early_stopping is True:
            hopeless = torch.ones_like(hopeless)
        self.done.logical_or_((self.lengths > 0).all(dim=1) & hopeless)
        self.position.add_(1)

    @staticmethod
    def _rows(sequences: Tensor, index: Tensor) -> Tensor:
        """Rows `(B, N)` of `(B, K, M)`: `(B, N, M)`."""
        return sequences.gather(1, index.unsqueeze(-1).expand(-1, -1, sequences.shape[2]))

    def result(self, asked: generation.Search) -> Tensor:
        """The outputs `(sentences * num_return_sequences, T)`, best first within a sentence."""
        best = (slice(len(asked.annotations)), slice(asked.num_return_sequences))
        return self.ended[best].flatten(0, 1)[:, : int(self.lengths[best].max())].clone()


# --- graphs --------------------------------------------------------------------------------------


Bodies = tuple[Callable[[], None], Callable[[], None]]


def capture(search: Search) -> Bodies:
    """Record both bodies of a search as CUDA graphs; without a GPU they stay what they are."""
    if search.plan.device.type != "cuda":
        return search.begin, search.step
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
        self._kept: OrderedDict[Plan, tuple[Search, Bodies]] = OrderedDict()
        self._addresses: list[tuple] = []

    def __reduce__(self) -> tuple:
        return _Searches, ()

    def find(
        self, kind: type[Search], decoder: BahdanauDecoder, head: nn.Linear, plan: Plan
    ) -> tuple[Any, Bodies]:
        """The search for a plan with its bodies, made if there is none for the parameters.

        At first they run as they are, which also sets libraries up; a second call with the same
        plan is worth a record of them.
        """
        parameters = (*decoder.parameters(), *head.parameters())
        addresses = [(p.data_ptr(), p.dtype, p.shape) for p in parameters]
        if addresses != self._addresses:
            self._kept.clear()
            self._addresses = addresses
        if plan not in self._kept:
            while len(self._kept) >= MOST_SEARCHES:
                self._kept.popitem(last=False)
            search = kind(decoder, head, plan)
            self._kept[plan] = search, (search.begin, search.step)
        elif self._kept[plan][1][0] == self._kept[plan][0].begin:
            search = self._kept[plan][0]
            self._kept[plan] = search, capture(search)
        self._kept.move_to_end(plan)
        return self._kept[plan]


def _run(kind: type[Search], asked: generation.Search) -> Tensor:
    """Search in the rooms of the smallest plan that the call fits in."""
    annotations, device = asked.annotations, asked.input_ids.device
    narrows, ends = torch.is_autocast_enabled(device.type), asked.eos_token_ids
    plan = Plan(
        batch_size=1 << (annotations.shape[0] - 1).bit_length(),
        source_length=-(-annotations.shape[1] // SOURCE_STEP) * SOURCE_STEP,
        output_length=-(-asked.max_length // OUTPUT_STEP) * OUTPUT_STEP,
        num_beams=asked.num_beams,
        dtype=annotations.dtype,
        autocast=torch.get_autocast_dtype(device.type) if narrows else None,
        device=device,
        eos_token_ids=() if ends is None else tuple(ends.flatten().tolist()),
        fill_token_id=asked.fill_token_id,
        length_penalty=asked.length_penalty,
        early_stopping=asked.early_stopping,
    )
    searches = asked.decoder.__dict__.get("_searches")
    if searches is None:
        searches = asked.decoder._searches = _Searches()
    on_device = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with (
        searches.lock,
        on_device,
        torch.inference_mode(False),  # the rooms are for calls of either kind
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),  # products have their type from the plan
    ):
        search, (begin, step) = searches.find(kind, asked.decoder, asked.head, plan)
        search.read(asked)
        begin()
        for taken in range(1, asked.max_length):
            step()
            if taken % ASK_EVERY == 0 and search.is_done():
                break
        return search.result(asked)


def _fits(asked: generation.Search) -> bool:
    return asked.input_ids.shape[1] == 1 and asked.max_length >= 2 and not asked.decoder.int8


def graphed_greedy_search(asked: generation.Search) -> Tensor:
    """Do what `greedy_search` does, which also takes longer beginnings and 8-bit products."""
    return _run(GreedySearch, asked) if _fits(asked) else generation.greedy_search(asked)


def graphed_beam_search(asked: generation.Search) -> Tensor:
    """Do what `beam_search` does, which also takes longer beginnings and 8-bit products."""
    return _run(BeamSearch, asked) if _fits(asked) else generation.beam_search(asked)
