"""What noise does to sources, and that it does nothing else."""

import random
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from bahdanau_hf.checkpoints.save_load import TrainerState
from bahdanau_hf.data.batching import NO_LINK, Batch, PairCollator
from bahdanau_hf.data.noise import SourceNoise, _move_links, with_slip, without_final_mark
from bahdanau_hf.data.tokenization import UNK_ID
from bahdanau_hf.data.vocabulary import train_tokenizer
from bahdanau_hf.errors import InputError
from tests.helpers.made_pairs import PAIRS
from tests.helpers.tiny_run import prepare

SOURCES, TARGETS = map(list, zip(*PAIRS, strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Where is the station?", "Where is the station"),
        ("Really?!", "Really"),
        ("Où est la gare ?", "Où est la gare"),
        ("“Come in.”", "“Come in"),
        ("车站在哪里？", "车站在哪里"),
        ("स्टेशन कहाँ है।", "स्टेशन कहाँ है"),
        # Marks inside, numbers, what is read aloud, and a text of marks alone stay.
        ("Tom's here, isn't he", "Tom's here, isn't he"),
        ("It costs $3.50", "It costs $3.50"),
        ("Only 5%", "Only 5%"),
        ("Only 5%.", "Only 5%"),
        ("...", "..."),
        ("", ""),
    ],
)
def test_the_final_mark_is_left_out(text: str, expected: str) -> None:
    assert without_final_mark(text) == expected


@given(st.text(st.sampled_from("abcdé 字.?"), max_size=30), st.integers(0, 99))
def test_a_slip_is_one_of_three(text: str, seed: int) -> None:
    places = range(len(text) - 1)
    allowed = {
        *(text[: i + 1] + text[i + 2 :] for i in places),
        *(text[:i] + text[i] + text[i:] for i in places),
        *(text[:i] + text[i + 1] + text[i] + text[i + 2 :] for i in places),
        *(text[:i] + text[i + 1 :] for i in places),
    }
    slipped = with_slip(text, random.Random(seed))
    longest = max(map(len, text.translate(dict.fromkeys(map(ord, "字.?"), " ")).split()), default=0)
    assert (slipped in allowed and slipped != text) if longest > 3 else slipped == text


@pytest.mark.parametrize("text", ["车站在哪里", "a bad day", "12345", ""])
def test_what_has_no_long_word_has_no_slip(text: str) -> None:
    assert with_slip(text, random.Random(0)) == text


@pytest.mark.parametrize(
    ("old", "new", "links", "expected"),
    [
        # A mark that is gone; a word that became three; three that became one.
        ([4, 5, 6, 2], [4, 5, 2], [1, 2, 3, -1], [1, NO_LINK, 2, -1]),
        ([4, 5, 6, 2], [4, 7, 8, 9, 6, 2], [0, 1, 2, 3, -1], [0, 1, 4, 5, -1]),
        ([4, 7, 8, 9, 6, 2], [4, 5, 6, 2], [0, 1, 2, 3, 4, 5], [0, 1, 1, 1, 2, 3]),
        ([4, 4, 2], [4, 2], [0, 1, 2], [0, NO_LINK, 1]),
    ],
)
def test_links_follow_their_tokens(
    old: list[int], new: list[int], links: list[int], expected: list[int]
) -> None:
    places = torch.tensor(links)
    _move_links(places, old, new)
    assert places.tolist() == expected


@pytest.fixture(scope="module", params=["bpe", "word-char", "char"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    return train_tokenizer(SOURCES, TARGETS, kind=request.param, vocab_size=400, min_frequency=2)


def batches(tokenizer: PreTrainedTokenizerFast, size: int = 10) -> list[Batch]:
    rows = [
        {"input_ids": s, "labels": t, "best_sources": [min(i, len(s) - 1) for i in range(len(t))]}
        for s, t in zip(tokenizer(SOURCES).input_ids, tokenizer(TARGETS).input_ids, strict=True)
    ]
    return [PairCollator()(rows[i : i + size]) for i in range(0, len(rows), size)]


def sources(batch: Batch) -> list[list[int]]:
    pairs = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in pairs]


def test_noise_changes_its_share_of_sources_and_no_target(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    marks, slips, free = 0, 0, 0
    for clean, batch in zip(batches(tokenizer), batches(tokenizer), strict=True):
        shape = batch["input_ids"].shape
        noisy = SourceNoise(tokenizer, 0.3, 7)(batch)
        assert noisy["input_ids"].shape == shape
        assert torch.equal(noisy["labels"], clean["labels"])
        assert noisy["input_ids"][noisy["attention_mask"] == 0].eq(tokenizer.pad_token_id).all()
        for i, (old, new) in enumerate(zip(sources(clean), sources(noisy), strict=True)):
            before, after = (tokenizer.decode(ids, skip_special_tokens=True) for ids in (old, new))
            assert before == after or UNK_ID not in old
            assert tokenizer(after).input_ids == new or UNK_ID in new
            free += UNK_ID not in old
            marks += without_final_mark(before) != before and without_final_mark(after) == after
            slips += without_final_mark(before) != without_final_mark(after)
            links, moved = clean["best_sources"][i], noisy["best_sources"][i]
            assert torch.equal(moved, links) if new == old else moved.max() < len(new)
            ends = links == len(old) - 1
            assert moved[ends].eq(len(new) - 1).all()
    assert 0.2 * free < marks < 0.4 * free
    assert 0.02 * free < slips < 0.4 * free  # some have no room, some no long word


def test_noise_is_repeatable_and_new_in_other_batches_and_seeds(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    def noisy(size: int, seed: int) -> list[list[int]]:
        noise = SourceNoise(tokenizer, 0.3, seed)
        return [ids for batch in batches(tokenizer, size) for ids in sources(noise(batch))]

    assert noisy(10, 1) == noisy(10, 1)
    assert noisy(10, 1) != noisy(10, 2)
    assert noisy(10, 1) != noisy(9, 1)


def test_rows_of_padding_stay(tokenizer: PreTrainedTokenizerFast) -> None:
    """As a batch for a GPU has them: one token to read, which is padding."""
    ids, mask = torch.full((2, 5), tokenizer.pad_token_id), torch.tensor([[1, 0, 0, 0, 0]] * 2)
    noisy = SourceNoise(tokenizer, 0.99, 0)(
        {"input_ids": ids.clone(), "attention_mask": mask.clone()}
    )
    assert torch.equal(noisy["input_ids"], ids)
    assert torch.equal(noisy["attention_mask"], mask)


# --- in a run ------------------------------------------------------------------------------------


def first_batches(folder: Path, number: int = 12, **changes: Any) -> list[list[list[int]]]:
    """The sources of the first batches of a run, which are two epochs of a table."""
    found = prepare(folder, **changes).batches.steps(TrainerState(), 1)
    return [sources(batch) for group, _ in islice(found, number) for batch in group]


def test_a_run_has_noise_where_it_is_told(tmp_path: Path) -> None:
    clean = first_batches(tmp_path / "clean")
    noisy = first_batches(tmp_path / "noisy", source_noise=0.4)
    assert noisy != clean
    by_workers = first_batches(tmp_path / "workers", source_noise=0.4, dataloader_num_workers=2)
    assert by_workers == noisy


def test_a_stream_has_noise(tmp_path: Path) -> None:
    run = prepare(tmp_path, streaming=True, source_noise=0.9)
    ((batch,), _) = next(run.batches.steps(TrainerState(), 1))
    texts = [run.tokenizer.decode(ids, skip_special_tokens=True) for ids in sources(batch)]
    assert sum(without_final_mark(text) == text for text in texts) >= 5  # of 8


def test_a_resumed_run_keeps_its_noise(tmp_path: Path) -> None:
    assert prepare(tmp_path / "clean").identity["recipe"]["source_noise"] == 0
    run = prepare(tmp_path / "noisy", source_noise=0.3)
    assert run.identity["recipe"]["source_noise"] == 0.3
    run.save()
    for share in (0, 0.2):
        with pytest.raises(InputError, match="source_noise"):
            prepare(tmp_path / "noisy", resume_from_checkpoint="latest", source_noise=share)
