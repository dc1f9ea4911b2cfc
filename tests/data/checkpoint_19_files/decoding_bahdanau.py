"""Greedy and beam search without the general loop: the same tokens, several times as fast.

`generate()` comes here when a call asks for nothing but tokens (and beam scores). Against the
library's loop: no outputs are assembled, the beams of a sentence share its keys and annotations,
the embedding of the previous word is all that is projected anew, and finished sentences leave the
batch.

Dimensions: B sentences, K beams, S source, L layers, H hidden, V vocabulary.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig
from transformers.generation import (
    EosTokenCriteria,
    LogitsProcessorList,
    MaxLengthCriteria,
    StoppingCriteriaList,
)

from .decoder_bahdanau import BahdanauDecoder
from .fused_bahdanau import Stepper, update_state
from .layout_bahdanau import lay_out

SHRINK = 0.8  # sentences are taken out of the batch once no more than this share is unfinished
NEVER = -1.0e9  # the library's score of what must not be chosen
PIECE = 128  # numbers of a row that are looked at together when its largest are sought
LONG = 1 << 14  # what has fewer numbers is sought through one by one


def asks_for_tokens_only(
    generation_config: GenerationConfig,
    logits_processor: LogitsProcessorList,
    stopping_criteria: StoppingCriteriaList,
    model_kwargs: dict,
) -> bool:
    """Tell whether a call of `generate` needs nothing that only the library's loop has."""
    config = generation_config
    extras = (
        config.output_attentions
        or config.output_hidden_states
        or config.output_scores
        or config.output_logits
        or config.return_dict_in_generate
    )
    known = {"encoder_outputs", "attention_mask", "use_cache", "logits_to_keep"}
    given = {name for name, value in model_kwargs.items() if value is not None}
    return (
        not config.do_sample
        and not extras
        and len(logits_processor) == 0
        and all(isinstance(c, MaxLengthCriteria | EosTokenCriteria) for c in stopping_criteria)
        and config.prefill_chunk_size is None
        and not config.is_assistant
        and not config.low_memory
        and bool(model_kwargs.get("use_cache", True))
        and given <= known
        and "encoder_outputs" in given
    )


class _Beams:
    """Rows of a batch on their way: states, the source side, and the way to the next logits."""

    def __init__(
        self,
        decoder: BahdanauDecoder,
        head: torch.nn.Linear,
        encoder_outputs: dict,
        attention_mask: Tensor | None,
    ):
        annotations, final_state = (
            encoder_outputs["last_hidden_state"],
            encoder_outputs["final_state"],
        )
        dtype = annotations.dtype
        if torch.is_autocast_enabled(annotations.device.type):
            dtype = torch.get_autocast_dtype(annotations.device.type)
        self.decoder, self.layout = decoder, lay_out(decoder, head, dtype)
        memory = decoder.read(annotations, final_state, attention_mask, self._project)
        dtype = torch.promote_types(dtype, torch.float32)
        self.stepper = Stepper(
            self.layout.recurrent, self.layout.inputs, memory.keys, memory.gates, memory.bias,
            self.layout.score, dtype=dtype,
        )  # fmt: skip
        self._context = memory.gates[:, 0].to(dtype) if memory.keys is None else None
        self._annotations = memory.annotations  # (B, S or 1, C)
        states = decoder.start_state(final_state).to(dtype)  # (B, L, H)
        # A copy: the steps write into it, and the encoder's output is the caller's.
        self.states = states.transpose(0, 1).clone(memory_format=torch.contiguous_format)
        self._is_within_one = bool(states.abs().amax() <= 1)  # always, if it is our encoder's
        self._make_room()

    def _project(self, annotations: Tensor) -> tuple[Tensor | None, Tensor]:
        B, S, C = annotations.shape
        rows = annotations.reshape(B * S, C)
        keys = None if self.layout.key is None else self.layout.key(rows).view(B, S, -1)
        return keys, self.layout.context(rows).view(B, S, -1)

    def _make_room(self) -> None:
        rows, H = self.states.shape[1:]
        self._next = torch.empty_like(self.states)
        self._rz = self.states.new_empty(rows, 2 * H)
        self._n = self.states.new_empty(rows, H)

    def step(self, tokens: Tensor) -> Tensor:
        """Read one token a row, `(B K,)`, and return what the output layer reads, `(B K, D)`."""
        stepper, states, H = self.stepper, self.states, self.states.shape[2]
        K, layout, readout = stepper.num_beams, self.layout, self.decoder.readout
        if layout.table is None or readout is not None:
            embedding = self.decoder.embed_tokens(tokens)
        if layout.table is None:
            x = layout.embedding(embedding)
        else:
            x = layout.table.index_select(0, tokens)
        from_top = stepper.read_top(states[-1])
        alpha = None
        if self._context is None:
            alpha = stepper.attend(from_top[:, 3 * H :])
            x = stepper.add_context(x, alpha)
        else:
            x = x + self._context.repeat_interleave(K, dim=0)
        for layer in range(states.shape[0]):
            if layer > 0:
                x = stepper.read_below(layer, self._next[layer - 1])
            top = layer == states.shape[0] - 1
            rec = from_top if top else stepper.read_state(layer, states[layer])
            update_state(x, rec, states[layer], None, self._rz, self._n, self._next[layer])
        self.states, self._next = self._next, self.states
        output = self.states[-1]
        if readout is not None:
            annotations = self._annotations.to(stepper.dtype)
            if alpha is None:
                context = annotations.repeat_interleave(K, dim=0)[:, 0]
            else:
                weights = alpha.view(-1, K, alpha.shape[1])
                context = torch.bmm(weights, annotations).flatten(0, 1)
            output = readout(output, context, embedding.to(stepper.dtype), layout.readout)
        return output

    def logits(self, tokens: Tensor) -> Tensor:
        """Read one token a row and return the next one's logits, float32 `(B K, V)`."""
        return self.layout.head(self.step(tokens)).float()

    def likeliest(self, tokens: Tensor) -> Tensor:
        """Read one token a row and return the next one that is the likeliest, `(B K,)`."""
        output, screen = self.step(tokens), self.layout.screen
        found = screen.likeliest(output) if screen is not None and self._is_within_one else None
        return self.layout.head(output).argmax(dim=-1) if found is None else found

    def widen(self, num_beams: int) -> None:
        """Go on with so many rows for each sentence, all alike."""
        self.stepper.widen(num_beams)
        self.states = self.states.repeat_interleave(num_beams, dim=1)
        self._make_room()

    def reorder(self, rows: Tensor) -> None:
        """Let row i go on from row `rows[i]`."""
        self.states = self.states.index_select(1, rows)

    def keep_sentences(self, kept: Tensor) -> None:
        """Go on with the given sentences, all their beams, alone."""
        if self._context is None:
            self.stepper.keep_sentences(kept)
        else:
            self._context = self._context.index_select(0, kept)
        self._annotations = self._annotations.index_select(0, kept)
        K = self.stepper.num_beams
        rows = kept[:, None] * K + torch.arange(K, device=kept.device)
        self.states = self.states.index_select(1, rows.flatten())
        self._make_room()


def greedy_search(
    decoder: BahdanauDecoder,
    head: torch.nn.Linear,
    input_ids: Tensor,
    encoder_outputs: dict,
    attention_mask: Tensor | None,
    max_length: int,
    eos_token_ids: Tensor | None,
    pad_token_id: int,
) -> Tensor:
    """Take the likeliest token at every step.

    Args:
        decoder: the decoder.
        head: the vocabulary head.
        input_ids: start of every output, `(B, P)`, P at least 1.
        encoder_outputs: the encoder's.
        attention_mask: `(B, S)`, 1 on real source tokens, or `None`.
        max_length: tokens of an output at most, its start included.
        eos_token_ids: tokens that end an output, or `None`.
        pad_token_id: what stands behind the end.

    Returns:
        `(B, T)`, T at most `max_length`, as long as the longest output.
    """
    beams = _Beams(decoder, head, encoder_outputs, attention_mask)
    for tokens in input_ids[:, :-1].unbind(1):
        beams.step(tokens)
    if input_ids.shape[0] == 1:
        return _greedy_row(beams, input_ids, max_length, eos_token_ids)
    B, length = input_ids.shape
    output = input_ids.new_full((B, max(max_length, length)), pad_token_id)
    output[:, :length] = input_ids
    rows = torch.arange(B, device=input_ids.device)  # of the output, for each row of the batch
    running = torch.ones(B, dtype=torch.bool, device=input_ids.device)
    tokens = input_ids[:, -1]
    while length < max_length:
        tokens = beams.likeliest(tokens)
        output[rows, length] = tokens.where(running, pad_token_id)
        length += 1
        if eos_token_ids is None:
            continue
        running = running & ~torch.isin(tokens, eos_token_ids)
        unfinished = int(running.sum())
        if unfinished == 0:
            break
        if unfinished <= SHRINK * rows.shape[0]:
            kept = running.nonzero().squeeze(1)
            beams.keep_sentences(kept)
            rows, tokens, running = rows[kept], tokens[kept], running[kept]
    return output[:, :length]


def _greedy_row(
    beams: _Beams, input_ids: Tensor, max_length: int, eos_token_ids: Tensor | None
) -> Tensor:
    """`greedy_search` of one row, without the upkeep that several ending apart need."""
    ends = set() if eos_token_ids is None else set(eos_token_ids.tolist())
    tokens = input_ids[0, -1:]
    words = [input_ids[0]]
    for _ in range(max_length - input_ids.shape[1]):
        tokens = beams.likeliest(tokens)
        words.append(tokens)
        if ends and tokens.item() in ends:
            break
    return torch.cat(words).unsqueeze(0)


def _largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`x.topk(k)` of a matrix's rows, on CPUs two to three times as fast in long rows.

    `topk` takes one number after the other, where the maximum of a piece takes vector instructions;
    and none but the k best pieces can hold the k best numbers.
    """
    rows, width = x.shape
    whole = width - width % PIECE
    if x.device.type != "cpu" or x.numel() < LONG or whole < 4 * k * PIECE:
        return x.topk(k)
    best = x[:, :whole].unflatten(1, (-1, PIECE)).amax(dim=-1).topk(k, sorted=False).indices
    inside = (best.unsqueeze(-1) * PIECE + torch.arange(PIECE)).flatten(1)
    columns = torch.cat([inside, torch.arange(whole, width).expand(rows, -1)], dim=1)
    values, chosen = x.gather(1, columns).topk(k)
    return values, columns.gather(1, chosen)


class _Ended(NamedTuple):
    """The best K ended hypotheses of each sentence so far; absent ones score `NEVER`."""

    sequences: Tensor  # (B, K, max_length)
    scores: Tensor  # (B, K)
    lengths: Tensor  # (B, K), 0 where absent

    def add(self, sequences: Tensor, scores: Tensor, ends: Tensor) -> "_Ended":
        """Take in hypotheses `(B, M, length)`, scored `(B, M)`, where `ends`; keep the best K."""
        length, (K, max_length) = sequences.shape[2], self.sequences.shape[1:]
        scores, best = torch.cat([self.scores, scores.where(ends, NEVER)], dim=1).topk(K)
        kept = best.clamp(max=K - 1).unsqueeze(-1).expand(-1, -1, max_length)
        old = self.sequences.gather(1, kept)
        new = sequences.gather(1, (best - K).clamp(min=0).unsqueeze(-1).expand(-1, -1, length))
        is_new = best >= K
        old[:, :, :length] = new.where(is_new.unsqueeze(-1), old[:, :, :length])
        lengths = torch.cat([self.lengths, ends * length], dim=1).gather(1, best)
        return _Ended(old, scores, lengths)


def beam_search(
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
    """Keep the K best beginnings of each sentence, by the rules of the library's beam search.

    A hypothesis scores its summed log-probability over its length to the power `length_penalty`. A
    sentence is done once no running beam can pass the worst of its K ended hypotheses (by the bound
    that `early_stopping` chooses); nothing can change it from then on, so it leaves the batch.

    Args:
        decoder: the decoder.
        head: the vocabulary head.
        input_ids: start of every output, `(B K, P)`, the beams of a sentence side by side.
        encoder_outputs: the encoder's, with `B K` rows.
        attention_mask: `(B K, S)` or `None`.
        max_length: tokens of an output at most, its start included.
        eos_token_ids: tokens that end an output, or `None`.
        fill_token_id: what stands behind the end.
        num_beams: K.
        num_return_sequences: best hypotheses returned for each sentence, at most K.
        length_penalty: above 1 favours long outputs.
        early_stopping: `True`, `False` or `"never"`.

    Returns:
        `(B * num_return_sequences, T)`, best first within a sentence.
    """
    K, prefix = num_beams, input_ids.shape[1]

    def per_sentence(x: Tensor) -> Tensor:
        return x[::K]  # `generate` has repeated every row for its beams

    sources = {
        name: per_sentence(encoder_outputs[name]) for name in ("last_hidden_state", "final_state")
    }
    mask = None if attention_mask is None else per_sentence(attention_mask)
    beams = _Beams(decoder, head, sources, mask)
    for tokens in per_sentence(input_ids[:, :-1]).unbind(1):
        beams.step(tokens)
    B, device = input_ids.shape[0] // K, input_ids.device
    num_candidates = max(2, 1 + (0 if eos_token_ids is None else eos_token_ids.shape[0])) * K
    running = input_ids.view(B, K, prefix)
    # The beams of a sentence begin alike: all but the first are held back for one step.
    scores = torch.zeros(B, K, device=device)
    scores[:, 1:] = NEVER
    ended = _Ended(
        F.pad(running, (0, max_length - prefix), value=fill_token_id),
        torch.full((B, K), NEVER, device=device),
        torch.zeros(B, K, dtype=torch.long, device=device),
    )
    results = _Ended(*(x.clone() for x in ended))
    sentences = torch.arange(B, device=device)  # of the results, for each one still in the batch
    tokens = per_sentence(input_ids[:, -1])
    for length in range(prefix + 1, max_length + 1):
        log_probs = beams.logits(tokens).log_softmax(dim=-1)
        if length == prefix + 1:  # one row served all beams, which begin alike
            log_probs = log_probs.repeat_interleave(K, dim=0)
            beams.widen(K)
        B, V = sentences.shape[0], log_probs.shape[-1]
        total = log_probs.view(B, K, V).add_(scores.unsqueeze(-1)).view(B, K * V)
        candidate_scores, index = _largest(total, min(num_candidates, K * V))
        origin, word = index // V, index % V
        candidates = running.gather(1, origin.unsqueeze(-1).expand(-1, -1, length - 1))
        candidates = torch.cat([candidates, word.unsqueeze(-1)], dim=-1)
        ends = torch.full_like(word, length == max_length, dtype=torch.bool)
        if eos_token_ids is not None:
            ends |= torch.isin(word, eos_token_ids)
        if bool(ends[:, :K].any()):
            normalised = candidate_scores / (length - prefix) ** length_penalty
            ended = ended.add(candidates[:, :K], normalised[:, :K], ends[:, :K])
        # The best that go on; there are K, since no more than one in each beam can end by a token.
        scores, choice = (candidate_scores + ends * NEVER).topk(K)
        running = candidates.gather(1, choice.unsqueeze(-1).expand(-1, -1, length))
        beam = origin.gather(1, choice)
        # Can the best running beam still pass the worst ended hypothesis?
        reach = max_length if early_stopping == "never" and length_penalty > 0 else length
        bound = scores[:, 0] / (reach - prefix) ** length_penalty
        full = (ended.lengths > 0).all(dim=1)
        done = full & ((bound <= ended.scores[:, -1]) | (early_stopping is True))
        if length == max_length:
            done = torch.ones_like(done)
        rows = torch.arange(B, device=device).unsqueeze(1) * K + beam
        beams.reorder(rows.flatten())
        if bool(done.any()):
            for result, x in zip(results, ended, strict=True):
                result[sentences[done]] = x[done]
            kept = (~done).nonzero().squeeze(1)
            if kept.shape[0] == 0:
                break
            beams.keep_sentences(kept)
            ended = _Ended(*(x[kept] for x in ended))
            running, scores, sentences = running[kept], scores[kept], sentences[kept]
            word, choice = word[kept], choice[kept]
        tokens = word.gather(1, choice).flatten()
    output = results.sequences[:, :num_return_sequences].flatten(0, 1)
    return output[:, : int(results.lengths[:, :num_return_sequences].max())]
