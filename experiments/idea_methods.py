"""What the ideas of `experiments.ideas` put in the place of parts of the package.

Dimensions are those of `modeling_bahdanau`: B batch, S source, T target, E embedding, H hidden, C
annotation, V vocabulary. K are the candidates of a sentence.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from bahdanau_hf.alignment.guided_loss import guided_attention_loss
from bahdanau_hf.alignment.ibm_model import NO_LINK, link_posteriors
from bahdanau_hf.data.batching import IGNORED_LABEL, Batch, PairCollator
from bahdanau_hf.data.tokenization import (
    BOS_ID,
    EOS_ID,
    PAD_ID,
    UNK_ID,
    side_kinds,
)
from bahdanau_hf.metrics.translation import sentence_scores
from bahdanau_hf.modeling import generation_bahdanau as generation
from bahdanau_hf.modeling import modeling_bahdanau as modeling
from bahdanau_hf.modeling.matmul_bahdanau import make_product, product_dtype
from bahdanau_hf.training.evaluation import precision_of_training
from bahdanau_hf.training.run import Run
from benchmarks.stopwatch import Contender

# --- layer normalisation -------------------------------------------------------------------------


class Product(nn.Module):
    """The gates from an input or a state: W x + b, in the type of W whatever autocast says."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """`(..., width)` to `(..., 3H)`."""
        return F.linear(x, weight, bias).to(weight.dtype)


class NormalisedProduct(Product):
    """LN(W x) + b: of reset and update gate together, and of the new gate (Ba et al. 2016, GRU).

    Each has a gain; what is added is the layer's own bias.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__(hidden_size)
        self.reset_update = nn.LayerNorm(2 * hidden_size, bias=False)
        self.new = nn.LayerNorm(hidden_size, bias=False)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """`(..., width)` to `(..., 3H)`."""
        H = weight.shape[0] // 3
        reset_update, new = F.linear(x, weight).to(weight.dtype).split([2 * H, H], dim=-1)
        return torch.cat([self.reset_update(reset_update), self.new(new)], dim=-1) + bias


def next_state(x: Tensor, rec: Tensor, s: Tensor, hold: Tensor | None = None) -> Tensor:
    """The state after s `(B, H)`, of gates from input and state, `(B, 3H)`; see BahdanauGRUCell."""
    x_r, x_z, x_n = x.chunk(3, dim=-1)
    s_r, s_z, s_n = rec.chunk(3, dim=-1)
    update = torch.sigmoid(x_z + s_z if hold is None else x_z + s_z + hold)
    return torch.lerp(torch.tanh(x_n + torch.sigmoid(x_r + s_r) * s_n), s.to(x.dtype), update)


class LoopCell(modeling.BahdanauGRUCell):
    """The decoder's cell, whose state keeps the type of the weights, as that of the fused loop."""

    gates: type[Product] = Product

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.of_input, self.of_state = self.gates(hidden_size), self.gates(hidden_size)

    def forward(self, input: Tensor, hx: Any = None, hold: Tensor | None = None) -> Tensor:
        """As that of `BahdanauGRUCell`."""
        x = self.of_input(input, self.weight_ih, self.bias_ih)
        return next_state(x, self.of_state(hx, self.weight_hh, self.bias_hh), hx, hold)


class LayerNormCell(LoopCell):
    """The decoder's cell with layer normalisation."""

    gates = NormalisedProduct


class LoopGRU(modeling.BahdanauGRU):
    """The encoder's layer as a loop in Python, which the normalised one is timed against."""

    gates: type[Product] = Product

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.of_input, self.of_state = self.gates(hidden_size), self.gates(hidden_size)

    def forward(self, input: Any, hx: Any = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """As that of `BahdanauGRU`, from a state of zeros."""
        x = self.of_input(input, self.weight_ih_l0, self.bias_ih_l0)
        state, states = x.new_zeros(x.shape[1], self.hidden_size), []
        for x_t in x.unbind():
            rec = self.of_state(state, self.weight_hh_l0, self.bias_hh_l0)
            state = next_state(x_t, rec, state)
            states.append(state)
        return torch.stack(states).to(input.dtype), state.unsqueeze(0)


class LayerNormGRU(LoopGRU):
    """The encoder's layer with layer normalisation."""

    gates = NormalisedProduct


# --- the last word in the query -----------------------------------------------------------------


class WordQueryDecoder(modeling.BahdanauDecoder):
    """The attention looks with the last word too: e = v tanh(W_a s_{j-1} + V_a y_{j-1} + U_a h)."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        if self.attention is None or config.decoder_layers != 1 or config.conditional_gru:
            raise ValueError("a query of state and word needs attention, and the paper's one layer")
        width = config.attention_hidden_size or config.hidden_size
        self.word = nn.Linear(config.embedding_size, width, bias=False)
        self.layers = nn.ModuleList(
            [LoopCell(config.annotation_size + config.embedding_size, config.hidden_size)]
        )
        self.post_init()

    def decode(self, words: Tensor, state: Tensor, source: Any, masks: Any, hold: Any) -> Any:
        """As that of `BahdanauDecoder`."""
        s, steps = state[:, 0], []
        for t, word in enumerate(words.unbind(1)):
            held = None if hold is None else hold[:, t, None]
            dropped = None if masks.attention is None else masks.attention[t]
            keys = source.keys + self.word(word).unsqueeze(1)
            seen = (keys, source.annotations, source.bias, dropped)
            context, alpha = self.attention(s, *seen)  # type: ignore[misc]
            s = self.layers[0](torch.cat([context, word], dim=-1), s, held)
            steps.append((s, alpha, context))
        states, alphas, contexts = map(torch.stack, zip(*steps, strict=True))
        return modeling.Decoded(states.unsqueeze(1), alphas, contexts)


# --- BPE-dropout ---------------------------------------------------------------------------------


class BpeDropout:
    """Cuts a batch's sources anew, each merge left out with a probability (Provilkov et al. 2020).

    A source with `<unk>` stays as it is. The tokenizer's library draws, from a generator that
    cannot be seeded.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, share: float) -> None:
        content = json.loads(tokenizer.backend_tokenizer.to_str())
        content |= {"padding": None, "truncation": None}
        content["model"]["dropout"] = share
        self.cutter, self.collate = Tokenizer.from_str(json.dumps(content)), PairCollator()
        tokens = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.lengths = np.array([len(token) for token in tokens])

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its words in other pieces, to which the links of `best_sources` move."""
        rows = zip(batch["input_ids"], batch["attention_mask"].sum(1).tolist(), strict=True)
        sources = [row[:length].tolist() for row, length in rows]
        cut = self.cutter.encode_batch_fast(self.cutter.decode_batch(sources))
        features = []
        for i, (old, new) in enumerate(zip(sources, (found.ids for found in cut), strict=True)):
            ends, own = (self.lengths[ids].cumsum() for ids in (new, old))
            if UNK_ID in old or ends[-1] != own[-1]:
                new, ends = old, own
            real = batch["labels"][i] != IGNORED_LABEL
            features.append({"input_ids": new, "labels": batch["labels"][i][real].tolist()})
            if "best_sources" in batch:  # to the piece that has the first letter of the old one
                links = batch["best_sources"][i][real].numpy()
                moved = np.searchsorted(ends, (own - self.lengths[old])[links], side="right")
                features[-1]["best_sources"] = np.where(links == NO_LINK, NO_LINK, moved).tolist()
        return self.collate(features)


def start_with_bpe_dropout(
    start: Callable[..., Run], *args: Any, share: float, **kwargs: Any
) -> Run:
    """The run, and BPE-dropout in the batches of the run."""
    run = start(*args, **kwargs)
    run.batches.loader.collate_fn = BpeDropout(run.tokenizer, share)  # type: ignore[union-attr]
    return run


# --- two passes that agree -----------------------------------------------------------------------

AGREEMENT = 5.0  # alpha of Liang et al. 2021 for translation


def add_agreeing_gradient(run: Run, batch: Batch, divisor: Any, factor: int) -> Tensor:
    """In the place of the step's `_add_gradient`: R-Drop (Liang et al. 2021, eq. 4, halved).

    Each pair is read twice, by other dropout: the mean of both losses, and half of alpha times the
    mean of the divergences of either distribution from the other.
    """
    places = batch.pop("best_sources", None)
    args = run.settings.train
    outputs = run.model(
        **{name: torch.cat([x, x]) for name, x in batch.items()},
        num_items_in_batch=divisor,
        label_smoothing=args.label_smoothing_factor,
        output_attentions=places is not None,
    )
    loss = total = outputs.loss / 2
    if places is not None:
        weights = outputs.cross_attentions[0][:, 0]
        guided = guided_attention_loss(weights, torch.cat([places, places]))
        total = total + args.guided_attention_weight * guided / 2 / divisor
    first, second = outputs.logits[(batch["labels"] != IGNORED_LABEL).repeat(2, 1)].chunk(2)
    total = total + AGREEMENT / 2 * divergence(first, second).sum() / divisor
    run.accelerator.backward(total * factor)
    return loss.detach() * divisor


def divergence(first: Tensor, second: Tensor) -> Tensor:
    """Mean of KL(p || q) and KL(q || p) `(N,)`, p and q given by their logits `(N, V)`."""
    p, q = (logits.float().log_softmax(-1) for logits in (first, second))
    return ((p.exp() - q.exp()) * (p - q)).sum(-1) / 2


# --- minimum risk --------------------------------------------------------------------------------

NUM_SAMPLES = 8  # of each sentence; the reference is a candidate too
SHARPNESS = 0.005  # alpha of Shen et al. 2016


def expected_cost(log_probs: Tensor, costs: Tensor, is_first: Tensor) -> Tensor:
    """Mean cost `(B,)` under P^alpha, normalised over the distinct candidates, all `(B, K)`.

    Shen et al. 2016, "Minimum Risk Training for Neural Machine Translation", eqs. 11 and 12.
    """
    scaled = (SHARPNESS * log_probs).masked_fill(~is_first, -torch.inf)
    return (scaled.softmax(dim=1) * costs).sum(dim=1)


def add_risk_gradient(run: Run, batch: Batch, divisor: Any, factor: int) -> Tensor:
    """In the place of the step's `_add_gradient`: the gradient of the expected cost, over alpha.

    The cost of a candidate is 1 less its sentence BLEU. Divided by alpha the gradient is about as
    large as that of cross-entropy.
    """
    candidates = draw_candidates(run, batch)  # (B, K, T)
    B, K, T = candidates.shape
    rows = [[tuple(row) for row in own] for own in candidates.tolist()]
    is_first = torch.tensor([[row not in own[:i] for i, row in enumerate(own)] for own in rows])
    labels = candidates.flatten(0, 1)
    source = {
        name: batch[name].repeat_interleave(K, dim=0) for name in ("input_ids", "attention_mask")
    }
    logits = run.model(**source, labels=labels).logits.flatten(0, 1)
    options: dict[str, Any] = {"ignore_index": IGNORED_LABEL, "reduction": "none"}
    losses = F.cross_entropy(logits.float(), labels.flatten(), **options)
    log_probs = -losses.view(B, K, T).sum(-1)
    costs = candidate_costs(run, labels, batch["labels"]).view(B, K)
    risk = expected_cost(log_probs, costs, is_first).sum() / SHARPNESS
    run.accelerator.backward(risk / divisor * factor)
    return risk.detach()


@torch.no_grad()
def draw_candidates(run: Run, batch: Batch) -> Tensor:
    """Samples of each sentence, and last its reference, as labels `(B, K, T)`."""
    model, references = run.bare_model, batch["labels"]
    longest = references.shape[1] + references.shape[1] // 2
    model.eval()
    with precision_of_training(run.accelerator, model):
        drawn = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            **{"do_sample": True, "top_k": 0, "num_beams": 1, "max_new_tokens": longest},
            num_return_sequences=NUM_SAMPLES,
        )[:, 1:]
    model.train()
    drawn = drawn.masked_fill(drawn == PAD_ID, IGNORED_LABEL).unflatten(0, (len(references), -1))
    width = max(drawn.shape[2], references.shape[1])
    sides = (drawn, references.unsqueeze(1))
    return torch.cat([F.pad(x, (0, width - x.shape[2]), value=IGNORED_LABEL) for x in sides], dim=1)


def candidate_costs(run: Run, candidates: Tensor, references: Tensor) -> Tensor:
    """1 less the sentence BLEU of each candidate, `(B K, T)` beside `(B, T)`: `(B K,)`."""
    texts, wanted = (
        run.tokenizer.batch_decode(x.masked_fill(x < 0, PAD_ID), skip_special_tokens=True)
        for x in (candidates, references)
    )
    repeated = [text for text in wanted for _ in range(len(texts) // len(wanted))]
    language, kind = run.settings.data.target_lang, side_kinds(run.tokenizer)[1]
    scores = sentence_scores(texts, repeated, language, target_kind=kind)
    return 1 - torch.tensor(scores) / 100


# --- a lexical shortlist -------------------------------------------------------------------------

BEST, FREQUENT = 20, 100  # target tokens of each source token, and of all


class ShortBeams(generation.Beams):
    """Beams that write the `allowed` tokens alone; their ids are places in that list."""

    def __init__(self, search: Any, allowed: Tensor) -> None:
        super().__init__(search)
        self.allowed = allowed
        self.layout = self.layout._replace(head=short_head(search.head, allowed))

    def step(self, tokens: Tensor) -> Tensor:
        """As that of `Beams`."""
        return super().step(self.allowed[tokens])


def short_head(head: nn.Linear, allowed: Tensor) -> Callable[[Tensor], Tensor]:
    """The output layer for some tokens."""
    weight, bias = head.weight.index_select(0, allowed), head.bias.index_select(0, allowed)
    return make_product(weight, bias, product_dtype(weight.device, weight.dtype))


class Shortlist:
    """Lets a model write only what the words of a batch may become, and what is frequent.

    That are the special tokens, the `frequent` target tokens of training, and for each source token
    the `best` ones that the package's aligner has linked to it, by their expected counts.

    Args:
        model: whose `generate` is changed.
        sources: ids of the training pairs' sources, the end included.
        targets: of their targets.
    """

    def __init__(
        self,
        model: Any,
        sources: Sequence[Sequence[int]],
        targets: Sequence[Sequence[int]],
        best: int = BEST,
        frequent: int = FREQUENT,
    ) -> None:
        self.model, self.sizes = model, list[int]()
        size, num_sources = model.config.vocab_size, model.get_input_embeddings().num_embeddings
        pairs = list(zip(sources, targets, strict=True))
        cells = link_posteriors(sources, targets)
        kinds = [np.add.outer(np.array(t), np.array(s) * size).ravel() for s, t in pairs]
        known, kind = np.unique(np.concatenate(kinds), return_inverse=True)
        counts = np.bincount(kind, np.concatenate([x.ravel() for x in cells]))
        order = np.lexsort((-counts, known // size))
        source, target = np.divmod(known[order], size)
        place = np.arange(len(order)) - np.searchsorted(source, source)
        self.table = torch.full((num_sources, best), EOS_ID)
        kept = place < best
        self.table[source[kept], place[kept]] = torch.from_numpy(target[kept])
        often = np.bincount(np.concatenate([np.array(t) for t in targets]), minlength=size)
        special = [PAD_ID, BOS_ID, EOS_ID, UNK_ID]  # the first ids, so that places are ids
        self.always = torch.tensor([*special, *np.argsort(-often, kind="stable")[:frequent]])

    def allowed(self, input_ids: Tensor) -> Tensor:
        """Ids in ascending order that translations of a batch may have."""
        return torch.cat([self.always, self.table[input_ids].flatten()]).unique()

    def generate(self, input_ids: Tensor, **options: Any) -> Tensor:
        """As the model's, of tokens alone."""
        allowed = self.allowed(input_ids)
        self.sizes.append(len(allowed))
        with mock.patch.object(generation, "Beams", partial(ShortBeams, allowed=allowed)):
            return allowed[type(self.model).generate(self.model, input_ids, **options)]

    def use(self, wanted: bool) -> None:
        """Let the model's `generate` go by the shortlist, or not."""
        vars(self.model).pop("generate", None)
        if wanted:
            self.model.generate = self.generate

    @torch.inference_mode()
    def heads(self, num_tokens: int, rows: int) -> dict[str, Contender]:
        """The output layer of all tokens and of some, for so many rows, to be timed."""
        head = self.model.lm_head
        x, dtype = torch.randn(rows, head.in_features), head.weight.dtype
        heads = {
            "plain": make_product(head.weight, head.bias, dtype, pack=True),
            "list": short_head(head, torch.arange(num_tokens)),
        }
        return {name: Contender(partial(layer, x), rows) for name, layer in heads.items()}
