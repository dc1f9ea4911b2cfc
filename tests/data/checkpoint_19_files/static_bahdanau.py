"""Greedy and beam search on memory that stays in place, in two bodies that ask the device nothing.

`graph_bahdanau` says what this is for. Finished sentences stay to the end, and where a step stands
is itself a number on the device.

Dimensions: B room for sentences, K beams, S room for source tokens, C annotation, L layers,
H hidden, A attention, M room for output tokens, V vocabulary.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from .decoder_bahdanau import BahdanauDecoder
from .decoding_bahdanau import NEVER
from .recurrence_bahdanau import prepare


class Plan(NamedTuple):
    """What a search was made for; another call with the same plan uses it again."""

    batch_size: int  # room for sentences
    source_length: int  # room for source tokens
    output_length: int  # room for output tokens, the start included
    num_beams: int
    dtype: torch.dtype  # of the annotations
    product_dtype: torch.dtype
    device: torch.device
    eos_token_ids: tuple[int, ...]
    fill_token_id: int
    length_penalty: float = 1.0
    early_stopping: bool | str = False


class Search:
    """Rooms for the inputs and the states; the way from a token to the next one's logits.

    `begin` prepares the weights and the source for the steps and puts all counters back; `step`
    takes one. Neither asks the device for anything, depends on what is found there, or sends it
    numbers (as `where` does with a plain number, and `torch.tensor`).
    """

    def __init__(self, decoder: BahdanauDecoder, head: torch.nn.Linear, plan: Plan):
        B, S, M, K = plan[:4]
        config, device = decoder.config, plan.device
        wide = torch.promote_types(plan.product_dtype, torch.float32)
        self.decoder, self.head, self.plan = decoder, head, plan
        room: dict[str, Any] = {"dtype": plan.dtype, "device": device}
        self.annotations = torch.zeros(B, S, config.annotation_size, **room)
        self.final_state = torch.zeros(B, config.encoder_layers, config.annotation_size, **room)
        self.mask = torch.zeros(B, S, dtype=torch.bool, device=device)
        self.is_real = torch.zeros(B, dtype=torch.bool, device=device)  # sentence, not filling
        self.first = torch.zeros(B, 1, dtype=torch.long, device=device)
        # Tokens of an output at most.
        self.limit = torch.full((1,), M, dtype=torch.long, device=device)
        self.states = torch.zeros(
            config.decoder_layers, B * K, config.hidden_size, dtype=wide, device=device
        )
        self.tokens = torch.zeros(B * K, dtype=torch.long, device=device)
        self.position = torch.zeros(1, dtype=torch.long, device=device)  # of the next token
        self.eos = torch.tensor(plan.eos_token_ids, dtype=torch.long, device=device)

    def read(
        self, first: Tensor, outputs: dict, attention_mask: Tensor | None, max_length: int
    ) -> None:
        """Take in a call's sentences: start tokens `(B K,)`, the encoder's outputs, its mask."""
        K = self.plan.num_beams
        annotations = outputs["last_hidden_state"][::K]
        B, S = annotations.shape[:2]
        self.annotations.zero_()[:B, :S] = annotations
        self.final_state.zero_()[:B] = outputs["final_state"][::K]
        self.mask.zero_()[:B, :S] = True if attention_mask is None else attention_mask[::K].bool()
        self.mask[B:, 0] = True  # no row without a token to look at
        self.is_real.zero_()[:B] = True
        self.first.zero_()[:B, 0] = first[::K]
        self.limit.fill_(max_length)

    def begin(self) -> None:
        """Prepare the steps."""
        decoder, dtype, wide = self.decoder, self.plan.product_dtype, self.states.dtype
        memory = decoder.read(self.annotations, self.final_state, self.mask)
        prepared = prepare(decoder.weights(), decoder.config.annotation_size)
        self._inputs, self._recurrent = (
            [(weight.to(dtype), bias.to(dtype)) for weight, bias in pairs]
            for pairs in (prepared.inputs, prepared.recurrent)
        )
        self._keys = self._score = None
        self._gates, self._bias = memory.gates.to(wide), memory.bias.to(wide).unsqueeze(1)
        if memory.keys is not None and prepared.score is not None:
            self._keys, self._score = memory.keys.to(wide).unsqueeze(1), prepared.score.to(wide)
        self._annotations = memory.annotations
        start = decoder.start_state(self.final_state).repeat_interleave(self.plan.num_beams, dim=0)
        self.states.copy_(start.transpose(0, 1))
        self.tokens.copy_(self.first.expand(-1, self.plan.num_beams).flatten())
        self.position.fill_(1)

    def step(self) -> None:
        """Take one step: read a token in each row and choose the next."""
        raise NotImplementedError

    def _product(self, x: Tensor, pair: tuple[Tensor, Tensor]) -> Tensor:
        return F.linear(x.to(self.plan.product_dtype), *pair).to(self.states.dtype)

    def _attend(self, x: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """The first layer's gates `(B K, 3H)` with the context in them, and `(B, K, S)` weights."""
        B, K = self.plan.batch_size, self.plan.num_beams
        if self._keys is None or self._score is None:
            alpha = self._gates.new_ones(B, K, 1)  # the plain seq2seq's one context
        else:
            features = torch.tanh(query.view(B, K, 1, -1) + self._keys)
            alpha = (torch.matmul(features, self._score) + self._bias).softmax(dim=-1)
        return torch.baddbmm(x.view(B, K, -1), alpha, self._gates).view(B * K, -1), alpha

    def _logits(self) -> Tensor:
        """Read the tokens, move the states on, and return `(B K, V)` in float32."""
        H, num_layers = self.states.shape[2], self.states.shape[0]
        with torch.autocast(self.plan.device.type, enabled=False):
            embedding = self.decoder.embed_tokens(self.tokens)
            from_top = self._product(self.states[-1], self._recurrent[-1])
            x = self._product(embedding, self._inputs[0])
            x, alpha = self._attend(x, from_top[:, 3 * H :])
            for layer in range(num_layers):
                if layer > 0:
                    x = self._product(self.states[layer - 1], self._inputs[layer])
                s, rec = self.states[layer], from_top
                if layer < num_layers - 1:
                    rec = self._product(s, self._recurrent[layer])
                reset, update = torch.sigmoid(x[:, : 2 * H] + rec[:, : 2 * H]).chunk(2, dim=-1)
                new = torch.tanh(torch.addcmul(x[:, 2 * H :], reset, rec[:, 2 * H : 3 * H]))
                self.states[layer].copy_(torch.lerp(new, s, update))
        output = self.states[-1].to(embedding.dtype)
        if self.decoder.readout is not None:
            context = torch.bmm(alpha.to(self._annotations.dtype), self._annotations)
            output = self.decoder.readout(output, context.flatten(0, 1), embedding)
        return self.head(output).float()

    def _ends(self, tokens: Tensor) -> Tensor:
        return (tokens.unsqueeze(-1) == self.eos).any(dim=-1)


class GreedySearch(Search):
    """Takes the likeliest token at every step; `output` is `(B, M)`, of which `length` counts."""

    def __init__(self, decoder: BahdanauDecoder, head: torch.nn.Linear, plan: Plan):
        super().__init__(decoder, head, plan)
        self.output = self.first.new_zeros(plan.batch_size, plan.output_length)
        self.running = torch.zeros_like(self.is_real)
        self.length = torch.zeros_like(self.position)

    def begin(self) -> None:
        """Prepare the steps."""
        super().begin()
        self.output.fill_(self.plan.fill_token_id)
        self.output[:, :1].copy_(self.first)
        self.running.copy_(self.is_real)
        self.length.fill_(1)

    def step(self) -> None:
        """Take one step."""
        tokens = self._logits().argmax(dim=-1)
        written = tokens.masked_fill(~self.running, self.plan.fill_token_id)
        self.output.index_copy_(1, self.position, written.unsqueeze(1))
        self.length.add_(self.running.any())
        self.running.logical_and_(~self._ends(tokens))
        self.tokens.copy_(tokens)
        self.position.add_(1)

    def is_done(self) -> bool:
        """Ask the device whether every sentence has ended."""
        return not bool(self.running.any())

    def result(self, batch_size: int) -> Tensor:
        """The outputs `(batch_size, T)`."""
        return self.output[:batch_size, : int(self.length)].clone()


class BeamSearch(Search):
    """Keeps K beginnings, by the rules of `decoding_bahdanau.beam_search`.

    `running` `(B, K, M)` go on; `ended` `(B, K, M)` are the best that have ended, of `lengths`
    tokens (0: none yet), and stay as they are once a sentence is `done`.
    """

    def __init__(self, decoder: BahdanauDecoder, head: torch.nn.Linear, plan: Plan):
        super().__init__(decoder, head, plan)
        B, _, M, K = plan[:4]
        self.running, self.ended = (self.first.new_zeros(B, K, M) for _ in range(2))
        self.lengths = self.first.new_zeros(B, K)
        self.scores, self.ended_scores = (torch.zeros(B, K, device=plan.device) for _ in range(2))
        self.done = torch.zeros_like(self.is_real)
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
        self.done.copy_(~self.is_real)

    def step(self) -> None:
        """Take one step."""
        plan, (B, K) = self.plan, self.scores.shape
        log_probs = self._logits().log_softmax(dim=-1)
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
        self.states.copy_(self.states.index_select(1, rows))
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

    def is_done(self) -> bool:
        """Ask the device whether nothing can change any more."""
        return bool(self.done.all())

    def result(self, batch_size: int, num_return_sequences: int) -> Tensor:
        """The outputs `(batch_size * num_return_sequences, T)`, best first within a sentence."""
        best = (slice(batch_size), slice(num_return_sequences))
        return self.ended[best].flatten(0, 1)[:, : int(self.lengths[best].max())].clone()
