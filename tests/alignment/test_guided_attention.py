"""The statistical aligner against known answers, and the attention that learns from it."""

from __future__ import annotations

import itertools
import math
import random
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bahdanau_hf import InputError
from bahdanau_hf.alignment.gold import bundled_alignments, score_links
from bahdanau_hf.alignment.guided_loss import add_best_sources, guided_attention_loss
from bahdanau_hf.alignment.ibm_model import NO_LINK, best_sources, link_posteriors, linked
from bahdanau_hf.alignment.words import split_words
from bahdanau_hf.data.batching import IGNORED_LABEL
from bahdanau_hf.data.sources import bundled_pairs
from bahdanau_hf.training.arguments import parse_arguments
from bahdanau_hf.training.step import take_step
from tests.helpers.tiny_run import prepare

DAS, HAUS, BUCH, EIN = range(4)
THE, HOUSE, BOOK, A = range(4)
GERMAN, ENGLISH = [[DAS, HAUS], [DAS, BUCH], [EIN, BUCH]], [[THE, HOUSE], [THE, BOOK], [A, BOOK]]


@pytest.mark.parametrize(
    ("rounds", "the_das", "the_haus", "house_das", "house_haus"),
    [(1, 0.5, 0.5, 0.25, 0.5), (2, 0.6364, 0.4286, 0.1818, 0.5714),
     (3, 0.7479, 0.3466, 0.1313, 0.6534)],
)  # fmt: skip
def test_textbook_example(
    rounds: int, the_das: float, the_haus: float, house_das: float, house_haus: float
) -> None:
    """Koehn 2010, "Statistical Machine Translation", figure 4.4: t after each round of Model 1."""
    first, *_ = link_posteriors(
        GERMAN, ENGLISH, num_iterations=rounds, diagonal_tension=0, null_share=0
    )
    expected = [
        [the_das / (the_das + the_haus), the_haus / (the_das + the_haus)],
        [house_das / (house_das + house_haus), house_haus / (house_das + house_haus)],
    ]
    np.testing.assert_allclose(first, expected, atol=2e-4)


def posteriors_by_loops(
    sources: list[list[int]], targets: list[list[int]], rounds: int, tension: float, null: float
) -> list[list[list[float]]]:
    """Model 2 with the diagonal prior, in dictionaries and loops."""
    size = 1 + max(itertools.chain(*sources, *targets))
    t = {(s, w): 1 / size for s in [None, *range(size)] for w in range(size)}
    for last in range(rounds + 1):
        counts: dict[tuple[int | None, int], float] = {}
        result = []
        for source, target in zip(sources, targets, strict=True):
            rows = []
            for j, word in enumerate(target):
                prior = [
                    math.exp(-tension * abs((i + 0.5) / len(source) - (j + 0.5) / len(target)))
                    for i in range(len(source))
                ]
                joint = [
                    (1 - null) * p / sum(prior) * t[s, word]
                    for p, s in zip(prior, source, strict=True)
                ]
                total = sum(joint) + null * t[None, word]
                rows.append([p / total for p in joint])
                for s, p in [*zip(source, joint, strict=True), (None, null * t[None, word])]:
                    counts[s, word] = counts.get((s, word), 0.0) + p / total
            result.append(rows)
        if last < rounds:
            sums: dict[int | None, float] = {}
            for (s, _), count in counts.items():
                sums[s] = sums.get(s, 0.0) + count
            t = {key: counts.get(key, 0.0) / sums[key[0]] for key in t if key[0] in sums}
    return result


@pytest.mark.parametrize("cells", [2**16, 30, 1])
def test_aligner_is_the_one_of_loops(monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    """In one block of all pairs, in several, and in one for each pair."""
    monkeypatch.setattr("bahdanau_hf.alignment.ibm_model._CELLS", cells)
    draw = random.Random(1)
    sides = [[[draw.randrange(6) for _ in range(draw.randint(1, 5))] for _ in range(9)]
             for _ in range(2)]  # fmt: skip
    found = link_posteriors(*sides, num_iterations=3, diagonal_tension=2.5, null_share=0.1)
    expected = posteriors_by_loops(*sides, rounds=3, tension=2.5, null=0.1)
    for own, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, other, atol=1e-12)
        assert (own.sum(axis=1) < 1).all()


def test_aligner_finds_the_words_of_a_language_that_moves_them() -> None:
    """Word w becomes 100 + w, and each second one comes first: 1 0 3 2 4."""
    draw = random.Random(2)
    sources = [draw.sample(range(30), draw.randint(3, 7)) for _ in range(300)]
    orders = [[i + 1 - 2 * (i % 2) if i + 1 - 2 * (i % 2) < len(s) else i for i in range(len(s))]
              for s in sources]  # fmt: skip
    targets = [[100 + s[i] for i in order] for s, order in zip(sources, orders, strict=True)]
    assert orders[0][:2] == [1, 0]
    assert best_sources(sources, targets) == orders


def test_tokens_of_any_number_are_the_same() -> None:
    """Numbers of kinds of cells are kept as small as they can be: 8, 16, 32 or 64 bits."""
    draw = random.Random(4)
    sides = [[[draw.randrange(9) for _ in range(5)] for _ in range(40)] for _ in range(2)]
    plain = best_sources(*sides)
    for factor in (20, 3000, 200_000):
        assert best_sources(*([[i * factor for i in ids] for ids in s] for s in sides)) == plain


def test_a_link_needs_both_directions() -> None:
    there = np.array([[[0.9, 0.05], [0.5, 0.4], [0.9, 0.0]]])  # three target tokens, two sources
    back = np.array([[[0.8, 0.1], [0.1, 0.8], [0.001, 0.999]]])
    assert linked(there, back).tolist() == [[0, 1, NO_LINK]]


def test_a_cell_takes_a_few_bytes() -> None:
    """A column of eight bytes for each cell would take 20 MB, and there used to be a dozen."""
    draw = random.Random(3)
    sides = [[[draw.randrange(50) for _ in range(50)] for _ in range(1000)] for _ in range(2)]
    best_sources(*([ids[:9] for ids in side] for side in sides))  # what is imported on the way
    tracemalloc.start()
    links = best_sources(*sides)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(map(len, links)) == 50_000
    assert peak < 20_000_000


@pytest.mark.slow
def test_aligner_on_the_bundled_pairs() -> None:
    references = bundled_alignments()
    pairs = [(row["en"], row["zh"]) for row in bundled_pairs()["train"]["translation"]]
    pairs += [(own.source, own.target) for own in references]
    words: dict[str, int] = {}
    sides = [[[words.setdefault(w.text.lower(), len(words)) for w in split_words(text)]
              for text in side] for side in zip(*pairs, strict=True)]  # fmt: skip
    found = best_sources(*sides)[-len(references) :]
    links = []
    for own, places in zip(references, found, strict=True):
        starts = [word.start for word in split_words(own.target)]
        holders = [max(k for k, w in enumerate(own.target_words) if w.start <= s) for s in starts]
        links.append({(i, k) for i, k in zip(places, holders, strict=True) if i != NO_LINK})
    assert score_links(links, references).error_rate < 0.25


# --- learning from it ----------------------------------------------------------------------------


def test_loss_by_hand() -> None:
    weights = torch.tensor([[[0.5, 0.25, 0.25], [0.1, 0.2, 0.7], [0.0, 0.0, 1.0]]])
    places = torch.tensor([[1, NO_LINK, 2]])
    loss = guided_attention_loss(weights, places)
    assert float(loss) == pytest.approx(math.log(4), abs=1e-6)
    # What has no chance at all is told so, and not infinitely loudly.
    weights.requires_grad_()
    guided_attention_loss(weights, torch.tensor([[NO_LINK, NO_LINK, 0]])).backward()
    assert weights.grad is not None
    assert torch.isfinite(weights.grad).all()
    assert float(weights.grad[0, 2, 0]) < -1e6
    assert weights.grad.count_nonzero() == 1


def test_ends_and_empty_sentences_belong_to_nothing(tmp_path: Path) -> None:
    run = prepare(tmp_path)
    encoded = run.pairs.encoded["train"]
    plain = add_best_sources(encoded)["best_sources"]
    for ids, labels, places in zip(encoded["input_ids"], encoded["labels"], plain, strict=True):
        assert len(places) == len(labels)
        assert places[-1] == NO_LINK
        assert all(NO_LINK <= place < len(ids) - 1 for place in places)
    assert sum(place != NO_LINK for row in plain for place in row) > 100
    cut = encoded.map(lambda row: {"input_ids": row["input_ids"][-1:]})
    assert {p for row in add_best_sources(cut)["best_sources"] for p in row} == {NO_LINK}


def test_step_learns_words_and_links(tmp_path: Path) -> None:
    run = prepare(
        tmp_path, dropout=0, attention_dropout=0, guided_attention_weight=0.7, max_grad_norm=0
    )
    [batch], _ = next(run.batches.steps(run.state, 1))
    places = batch["best_sources"]
    real = batch["labels"] != IGNORED_LABEL
    assert places.shape == real.shape
    assert (places[~real] == NO_LINK).all()
    model = run.bare_model
    out = model(**batch, output_attentions=True)
    loss = F.cross_entropy(out.logits[real], batch["labels"][real])
    alpha = out.cross_attentions[0][:, 0]
    chosen = [
        alpha[b, t, places[b, t]].log()
        for b, t in itertools.product(*map(range, places.shape))
        if places[b, t] != NO_LINK
    ]
    (loss - 0.7 * torch.stack(chosen).sum() / real.sum()).backward()
    expected = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    run.optimizer.zero_grad()
    seen: dict[str, torch.Tensor] = {}
    run.optimizer.optimizer.register_step_pre_hook(
        lambda *_: seen.update({n: p.grad.clone() for n, p in model.named_parameters()})
    )
    done = take_step(run, [batch])
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, rtol=1e-4, atol=1e-5, msg=name)
    # What is logged can be compared with runs that know no links.
    assert done.loss_sum == pytest.approx(float(loss.detach()) * int(real.sum()), rel=1e-5)
    assert "best_sources" not in run.pairs.encoded["train"].column_names


def test_weight_belongs_to_the_run_and_to_models_with_attention(tmp_path: Path) -> None:
    assert prepare(tmp_path / "a").identity["recipe"]["guided_attention_weight"] == 0
    run = prepare(tmp_path / "b", guided_attention_weight=0.3)
    assert run.identity["recipe"]["guided_attention_weight"] == 0.3
    changes = {"use_attention": False, "attention_dropout": 0, "guided_attention_weight": 0.3}
    with pytest.raises(InputError, match="needs a model with attention"):
        prepare(tmp_path / "c", **changes)
    with pytest.raises(InputError, match="leave out --streaming"):
        parse_arguments(["--guided_attention_weight=1", "--streaming", "--max_train_steps=1"])
    with pytest.raises(InputError, match="must not be negative"):
        parse_arguments(["--guided_attention_weight=-1"])
