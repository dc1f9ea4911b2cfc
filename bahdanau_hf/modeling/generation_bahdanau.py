"""Greedy and beam search without the general loop: the same tokens, several times as fast.

`generate()` comes here when a call asks for nothing but tokens (and beam scores), of a model whose
modules are all as built. Against the library's loop: no outputs are assembled, the beams of a
sentence share its keys and annotations, the embedding of the previous word is all that is projected
anew, and finished sentences leave the batch. Dimensions: B sentences, K beams, M rows, S source, L
layers, H hidden, A attention, C annotation, E embedding, D the output layer's input, V vocabulary.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, generation

from .matmul_bahdanau import Product, can_pack, make_product, product_dtype, remember
from .processor_bahdanau import processor
from .recurrence_bahdanau import Room, Stepper, join_query

NEVER = -1.0e9  # the library's score of what must not be chosen
PIECE = 128  # numbers of a row that are looked at together when its largest are sought
LONG = 1 << 14  # what has fewer numbers is sought through one by one
LARGEST_TABLE = 1 << 24  # numbers; 64 MB


def asks_for_tokens_only(
    generation_config: GenerationConfig,
    logits_processor: LogitsProcessorList,
    stopping_criteria: generation.StoppingCriteriaList,
    synced_gpus: bool = False,
    streamer: Any = None,
    **model_kwargs: Any,
) -> bool:
    """Tell whether a call of `generate` needs nothing that only the library's loop has."""
    config = generation_config
    only_in_the_loop = (
        *(synced_gpus, streamer, config.do_sample, config.output_attentions),
        *(config.output_hidden_states, config.output_scores, config.output_logits),
        *(config.return_dict_in_generate, config.prefill_chunk_size, config.is_assistant),
        *(config.low_memory, len(logits_processor)),
    )
    stops = (generation.MaxLengthCriteria, generation.EosTokenCriteria)
    known = {"encoder_outputs", "attention_mask", "use_cache", "logits_to_keep"}
    given = {name for name, value in model_kwargs.items() if value is not None}
    return (
        not any(only_in_the_loop)
        and all(isinstance(criterion, stops) for criterion in stopping_criteria)
        and bool(model_kwargs.get("use_cache", True))
        and "encoder_outputs" in given
        and given <= known
    )


class Search(NamedTuple):
    """What is searched for, and by which rules; the last four are for beams."""

    decoder: Any
    head: nn.Linear
    input_ids: Tensor  # start of every output, (B, P), P at least 1
    annotations: Tensor  # (B, S, C)
    final_state: Tensor  # (B, encoder layers, C)
    mask: Tensor | None  # (B, S), 1 on real source tokens
    max_length: int  # tokens of an output at most, its start included
    eos_token_ids: Tensor | None  # tokens that end an output
    fill_token_id: int  # what stands behind the end
    num_beams: int = 1  # K
    num_return_sequences: int = 1  # best hypotheses of each sentence, at most K
    length_penalty: float = 1.0  # above 1 favours long outputs
    early_stopping: bool | str = False  # or True or "never"


RULES = ("num_beams", "num_return_sequences", "length_penalty", "early_stopping")
_SETTINGS = {  # that a search goes by, or that say nothing of it
    *(*RULES, "max_new_tokens", "pad_token_id", "bos_token_id", "eos_token_id"),
    *("decoder_start_token_id", "transformers_version", "_from_model_config", "_commit_hash"),
    "_original_object_hash",
}


def plain_rules(config: GenerationConfig, asked: dict[str, Any]) -> dict[str, Any] | None:
    """The rules that settings and a call name, unless they name what `generate` must prepare."""
    rules = {name: x for name, x in {**vars(config), **asked}.items() if x is not None}
    if type(rules.get("max_length")) is int and "max_new_tokens" not in rules:
        rules["max_new_tokens"] = rules.pop("max_length") - 1  # it counts the start too
    cached, others = rules.pop("use_cache", True), rules.keys() - _SETTINGS
    limit, beams, wanted = (rules.get(name, 1) for name in ("max_new_tokens", *RULES[:2]))
    ids = (rules.get("decoder_start_token_id"), rules.get("pad_token_id"))
    # `generate` says what is wrong with other values.
    is_plain = (
        (cached and "max_new_tokens" in rules)
        and all(rules[name] is False for name in others)
        and (beams != 1 or asked.keys().isdisjoint(RULES[2:]))
        and all(type(number) is int for number in (limit, beams, wanted, *ids))
        and (limit >= 1 and 1 <= wanted <= beams)
        and type(rules.get("length_penalty", 1.0)) in (int, float)
    )
    return rules if is_plain else None


# --- tokens that only the source side has --------------------------------------------------------

_TOLD_IDS = (
    *(generation.EncoderNoRepeatNGramLogitsProcessor, generation.ForcedBOSTokenLogitsProcessor),
    *(generation.EncoderRepetitionPenaltyLogitsProcessor, generation.ForcedEOSTokenLogitsProcessor),
    *(generation.PrefixConstrainedLogitsProcessor, generation.SequenceBiasLogitsProcessor),
)  # bad words are such a bias


class WholeVocabulary(LogitsProcessor):
    """Lets a processor that is told ids see the source's tokens, with probability zero.

    To ban or to penalise them is nothing; to force one, or an id that neither side has, is an
    error, and so is a row that is left nothing to write.
    """

    def __init__(self, processor: LogitsProcessor, size: int):
        self.processor, self.size = processor, size

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """`(M, V)` to `(M, V)`, as the library's processors do."""
        name, V = type(self.processor).__name__, scores.shape[1]
        scores = F.pad(scores, (0, self.size - V), value=-torch.inf)
        try:
            scores = self.processor(input_ids, scores)
        except IndexError as error:
            raise ValueError(f"{name}: {error}; ids go from 0 to {self.size - 1}") from error
        scores, beyond = scores[:, :V], scores[:, V:]
        if bool((scores == -torch.inf).all(dim=1).any()):
            forced = (beyond > -torch.inf).any(dim=0).nonzero().flatten() + V
            raise ValueError(
                f"{name} leaves only tokens that the source side alone has (forced: "
                f"{forced[:9].tolist()}): this model writes ids from 0 to {V - 1}"
            )
        return scores


def read_whole_vocabulary(
    processors: LogitsProcessorList, vocab_size: int, size: int
) -> LogitsProcessorList:
    """Give the processors that are told ids scores of the source's `size` tokens."""
    if size == vocab_size:
        return processors
    return LogitsProcessorList(
        WholeVocabulary(p, size) if isinstance(p, _TOLD_IDS) else p for p in processors
    )


# --- the weights as the searches read them -------------------------------------------------------


class Layout(NamedTuple):
    """The decoder's products; all but the table's take and give matrices of at least float32."""

    table: Tensor | None  # (V, 3H), each word's part of the first layer's gates; or, if too large:
    embedding: Product | None  # E to 3H
    recurrent: tuple[Product, ...]  # each layer's H to 3H; with attention the top's to 3H + A
    inputs: tuple[Product, ...]  # H to 3H, of all layers but the first
    score: Tensor | None
    key: Product | None  # C to A
    context: Product  # C to 3H
    transition: Product | None  # H to 3H, of a conditional GRU's first one, which reads the word
    context_bias: Tensor | None  # (3H,), then added to what the context gives
    readout: Product | None  # H + C + E to 2D, of the deep readout
    head: Product  # D to V


def lay_out(decoder: Any, head: nn.Linear, dtype: torch.dtype, pack: bool = True) -> Layout:
    """Lay the weights out, or take what was laid out before if they have not changed.

    Products are computed in `dtype`, unless the decoder multiplies in 8 bits.
    """
    make = partial(_make, decoder, head, dtype)
    if not (pack and can_pack(decoder.device)):
        return make(pack=False)
    weights = {id(x): x for x in (*decoder.parameters(), *head.parameters())}  # tied ones once
    key = (dtype, decoder.int8)
    return remember(decoder, key, list(weights.values()), partial(make, pack=True))


def _make(decoder: Any, head: nn.Linear, dtype: torch.dtype, pack: bool) -> Layout:
    cells, attention, readout = list(decoder.layers), decoder.attention, decoder.readout
    int8 = decoder.int8
    if int8 and not (pack and processor().int8):
        raise ValueError("8-bit products run on x86 CPUs alone, and outside of training")
    product = partial(make_product, dtype=dtype, pack=pack, int8=int8, within_one=True)
    query = score = key = table = projection = None
    if attention is not None:
        query, score = attention.query.weight, attention.score.weight[0].detach()
        key = product(attention.key.weight, attention.key.bias)
    embeddings, (context, weight, bias) = decoder.embed_tokens.weight, decoder.input_weights()
    first = decoder.transition
    if pack and len(embeddings) * len(weight) <= LARGEST_TABLE:
        table = make_product(weight, bias, dtype)(embeddings.detach())
    if readout is not None:
        projection = product(readout.projection.weight, readout.projection.bias, within_one=False)
    recurrent = join_query([(cell.weight_hh, cell.bias_hh) for cell in cells], query)
    return Layout(
        table=table,
        embedding=None if table is not None else product(weight, bias, within_one=False),
        recurrent=tuple(product(*pair) for pair in recurrent),
        inputs=tuple(product(cell.weight_ih, cell.bias_ih) for cell in cells[1:]),
        score=score,
        key=key,
        context=product(context, None),
        transition=None if first is None else product(first.weight_hh, first.bias_hh),
        context_bias=None if first is None else cells[0].bias_ih.detach(),
        readout=projection,
        head=product(head.weight, head.bias, within_one=readout is None),
    )


# --- rows on their way ---------------------------------------------------------------------------


def batch_room(num_sentences: int) -> int:
    """The batch that so many sentences are kept in: 1, 2, 3, 4, 6, 8, 12, 16, 24, ...

    Every size has machine code of its own, which is made when it first occurs, and kept.
    """
    size = 1 << (num_sentences - 1).bit_length()
    return 3 * size // 4 if num_sentences <= 3 * size // 4 and size >= 4 else size


def with_fillers(wanted: Tensor) -> Tensor | None:
    """Rows that are `wanted`, `(B,)`, and others up to a batch's next size; `None` if all stay."""
    room = batch_room(int(wanted.sum()))
    if room >= wanted.shape[0]:
        return None
    return wanted.byte().argsort(descending=True, stable=True)[:room].sort().values


class Beams:
    """Rows of a batch on their way: states, the source side, and the way to the next logits.

    They choose by autocast what products are computed in; the steps are taken outside of it, since
    it would narrow scores and contexts as well. Unless `pack`, neither making them nor a step asks
    the device for anything, and the states stay where they are: both can be recorded as graphs.
    """

    def __init__(self, search: "Search", pack: bool = True, stepper: Any = Stepper):
        decoder, head, _, annotations, final_state, mask, *_ = search
        wide = decoder.embed_tokens.weight.dtype  # of the weights; autocast's encoder may be narrow
        dtype = product_dtype(annotations.device, wide)
        annotations, final_state = annotations.to(wide), final_state.to(wide)
        self.decoder, self.layout = decoder, lay_out(decoder, head, dtype, pack)
        layout, dtype = self.layout, torch.promote_types(dtype, torch.float32)

        def project(product: Product | None, x: Tensor) -> Tensor:
            return product(x.flatten(0, 1)).unflatten(0, x.shape[:2])  # type: ignore[misc]

        with torch.autocast(annotations.device.type, enabled=False):
            source = decoder.read(annotations, final_state, mask, partial(project, layout.key))
            gates = project(layout.context, source.annotations)
            states = decoder.start_state(final_state).to(dtype)  # (B, L, H)
        looked_at = (source.keys, gates, source.bias, layout.score)
        self.stepper = stepper(layout.recurrent, layout.inputs, *looked_at, dtype=dtype)
        self._reader = self._context_bias = None
        if layout.transition is not None and layout.context_bias is not None:
            self._reader = stepper((layout.transition,), dtype=dtype)
            self._context_bias = layout.context_bias.to(dtype)
        self._context = gates[:, 0].to(dtype) if source.keys is None else None
        self._annotations = source.annotations.to(dtype)  # (B, S or 1, C)
        # A copy: the steps write into it, and the encoder's output is the caller's.
        self._go_on(states.transpose(0, 1).clone(memory_format=torch.contiguous_format))

    def _go_on(self, states: Tensor) -> None:
        self.states, (L, rows, H) = states, states.shape
        reset_update, new = states.new_empty(rows, 2 * H), states.new_empty(rows, H)
        self._room = Room([reset_update] * L, [new] * L)

    def step(self, tokens: Tensor) -> Tensor:
        """Read a token a row, `(B K,)`; return what the head reads, `(B K, D)`, until the next."""
        layout, readout, K = self.layout, self.decoder.readout, self.stepper.num_beams
        if layout.table is None or readout is not None:
            embedding = self.decoder.embed_tokens(tokens)
        if layout.table is None:
            x = layout.embedding(embedding)  # type: ignore[misc]
        else:
            x = layout.table.index_select(0, tokens)
        if self._context is not None:
            x = x + self._context.repeat_interleave(K, dim=0)
        states = self.states.unbind()
        if self._reader is not None and self._context_bias is not None:
            self._reader.step(x, states, states, self._room)
            x = self._context_bias.expand(x.shape)
        alpha = self.stepper.step(x, states, states, self._room)
        if readout is None:
            return states[-1]
        if alpha is None:
            context = self._annotations.repeat_interleave(K, dim=0)[:, 0]
        else:
            weights = alpha.view(-1, K, alpha.shape[1])
            context = torch.bmm(weights, self._annotations).flatten(0, 1)
        return readout(states[-1], context, embedding.to(self.stepper.dtype), layout.readout)

    def logits(self, tokens: Tensor) -> Tensor:
        """Read one token a row and return the next one's logits, float32 `(B K, V)`."""
        return self.layout.head(self.step(tokens)).float()

    def likeliest(self, tokens: Tensor) -> Tensor:
        """Read one token a row and return the next one that is the likeliest, `(B K,)`."""
        return self.layout.head(self.step(tokens)).argmax(dim=-1)

    def widen(self, num_beams: int) -> None:
        """Go on with so many rows for each sentence, all alike."""
        self.stepper.widen(num_beams)
        self._go_on(self.states.repeat_interleave(num_beams, dim=1))

    def reorder(self, rows: Tensor) -> None:
        """Let row i go on from row `rows[i]`."""
        self.states = self.states.index_select(1, rows)

    def keep_sentences(self, kept: Tensor) -> None:
        """Go on with the given sentences, all their beams, alone."""
        self.stepper.keep_sentences(kept)
        if self._context is not None:
            self._context = self._context.index_select(0, kept)
        self._annotations = self._annotations.index_select(0, kept)
        states = self.states.unflatten(1, (-1, self.stepper.num_beams))
        self._go_on(states.index_select(1, kept).flatten(1, 2))


# --- the searches --------------------------------------------------------------------------------


def _run(way: Callable[[Beams, Search], Tensor], search: Search) -> Tensor:
    """Search in a way, from beams that have read all but the last token of their beginnings."""
    beams = Beams(search)
    with torch.autocast(search.input_ids.device.type, enabled=False):
        for tokens in search.input_ids[:, :-1].unbind(1):
            beams.step(tokens)
        return way(beams, search)


def greedy_search(search: Search) -> Tensor:
    """Take the likeliest token at every step; `(B, T)`, as long as the longest output."""
    return _run(_greedy_row if len(search.input_ids) == 1 else _greedy_rows, search)


def _greedy_row(beams: Beams, search: Search) -> Tensor:
    """`greedy_search` of one row, without the upkeep that several ending apart need."""
    ends = set() if search.eos_token_ids is None else set(search.eos_token_ids.tolist())
    words = list(search.input_ids[0].split(1))
    while len(words) < search.max_length:
        words.append(beams.likeliest(words[-1]))
        if ends and words[-1].item() in ends:
            break
    return torch.cat(words).unsqueeze(0)


def _greedy_rows(beams: Beams, search: Search) -> Tensor:
    input_ids, max_length, ends, fill = search.input_ids, *search[6:9]
    B, length = input_ids.shape
    output = input_ids.new_full((B, max(max_length, length)), fill)
    output[:, :length] = input_ids
    rows = torch.arange(B, device=input_ids.device)  # of the output, for each row of the batch
    running = torch.ones(B, dtype=torch.bool, device=input_ids.device)
    tokens = input_ids[:, -1]
    while length < max_length:
        tokens = beams.likeliest(tokens)
        output[rows, length] = tokens.where(running, fill)
        length += 1
        if ends is None:
            continue
        running = running & ~torch.isin(tokens, ends)
        if not bool(running.any()):
            break
        if (kept := with_fillers(running)) is not None:
            beams.keep_sentences(kept)
            rows, tokens, running = rows[kept], tokens[kept], running[kept]
    return output[:, :length]


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

    def add(self, sequences: Tensor, scores: Tensor, ends: Tensor, fill: int) -> "_Ended":
        """Take in hypotheses `(B, M, length)`, scored `(B, M)`, where `ends`; keep the best K."""
        length, (K, max_length) = sequences.shape[2], self.sequences.shape[1:]
        scores, best = torch.cat([self.scores, scores.where(ends, NEVER)], dim=1).topk(K)
        sequences = F.pad(sequences, (0, max_length - length), value=fill)
        sequences = torch.cat([self.sequences, sequences], dim=1)
        sequences = sequences.gather(1, best.unsqueeze(-1).expand(-1, -1, max_length))
        lengths = torch.cat([self.lengths, ends * length], dim=1).gather(1, best)
        return _Ended(sequences, scores, lengths)


def beam_search(search: Search) -> Tensor:
    """Keep the K best beginnings of each sentence, by the rules of the library's beam search.

    A hypothesis scores its summed log-probability over its length to the power `length_penalty`. A
    sentence is done once no running beam can pass the worst of its K ended hypotheses (by the bound
    that `early_stopping` chooses); nothing can change it from then on. Returned are outputs
    `(B * num_return_sequences, T)`, best first within a sentence.
    """
    return _run(_beam_rows, search)


def _beam_rows(beams: Beams, search: Search) -> Tensor:
    K, penalty, early_stopping = search.num_beams, search.length_penalty, search.early_stopping
    input_ids, max_length, ids, fill = search.input_ids, *search[6:9]
    (B, prefix), device = input_ids.shape, input_ids.device
    eos_token_ids = input_ids.new_empty(0) if ids is None else ids
    num_candidates = max(2, 1 + len(eos_token_ids)) * K
    running = input_ids.unsqueeze(1).expand(-1, K, -1)
    # The beams of a sentence begin alike: all but the first are held back for one step.
    scores = torch.zeros(B, K, device=device)
    scores[:, 1:] = NEVER
    ended = _Ended(
        F.pad(running, (0, max_length - prefix), value=fill),
        torch.full((B, K), NEVER, device=device),
        torch.zeros(B, K, dtype=torch.long, device=device),
    )
    results = _Ended(*(x.clone() for x in ended))
    sentences = torch.arange(B, device=device)  # of the results, for each one still in the batch
    wanted = torch.ones(B, dtype=torch.bool, device=device)  # not done, no mere filler
    tokens = input_ids[:, -1]
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
        ends = torch.isin(word, eos_token_ids) | (length == max_length)
        if bool(ends[:, :K].any()):
            normalised = candidate_scores / (length - prefix) ** penalty
            ended = ended.add(candidates[:, :K], normalised[:, :K], ends[:, :K], fill)
        # The best that go on; there are K, since no more than one in each beam can end by a token.
        scores, choice = (candidate_scores + ends * NEVER).topk(K)
        running = candidates.gather(1, choice.unsqueeze(-1).expand(-1, -1, length))
        # Can the best running beam still pass the worst ended hypothesis?
        reach = max_length if early_stopping == "never" and penalty > 0 else length
        bound = scores[:, 0] / (reach - prefix) ** penalty
        done = (bound <= ended.scores[:, -1]) | (early_stopping is True)
        done = wanted & ((ended.lengths > 0).all(dim=1) & done | (length == max_length))
        rows = torch.arange(B, device=device).unsqueeze(1) * K + origin.gather(1, choice)
        beams.reorder(rows.flatten())
        if bool(done.any()):
            for result, x in zip(results, ended, strict=True):
                result[sentences[done]] = x[done]
            wanted = wanted & ~done
            if not bool(wanted.any()):
                break
            if (kept := with_fillers(wanted)) is not None:
                beams.keep_sentences(kept)
                ended = _Ended(*(x[kept] for x in ended))
                running, scores = running[kept], scores[kept]
                sentences, wanted = sentences[kept], wanted[kept]
        tokens = running[:, :, -1].flatten()
    best = slice(search.num_return_sequences)
    longest = int(results.lengths[:, best].max())
    return results.sequences[:, best, :longest].flatten(0, 1)
