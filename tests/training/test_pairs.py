"""Pairs that are mixed in are drawn from their files alone, and are never validated on."""

import logging
from pathlib import Path

import pytest

from bahdanau_hf import InputError
from bahdanau_hf.data.sources import sentence_key
from bahdanau_hf.training.arguments import DataArguments
from bahdanau_hf.training.pairs import load_pairs
from tests.helpers.made_pairs import PAIRS, Pairs, rows, write_tsv

DOMAIN: Pairs = [(f"Word {n}.", f"词{n}。") for n in range(40)]


@pytest.mark.parametrize(
    ("ratio", "drawn"), [(0.5, 20), (0.1, 4), (1, 40), (9, len(PAIRS)), (0.001, 1)]
)
def test_as_many_are_mixed_in_as_the_ratio_says(tmp_path: Path, ratio: float, drawn: int) -> None:
    given = {
        "train_file": write_tsv(tmp_path / "domain.tsv", DOMAIN),
        "validation_file": write_tsv(tmp_path / "dev.tsv", DOMAIN[:5]),
    }
    half = len(PAIRS) // 2
    files = [
        write_tsv(tmp_path / "a.tsv", PAIRS[:half]),
        write_tsv(tmp_path / "b.tsv", PAIRS[half:]),
    ]
    args = DataArguments(**given, mix_file=",".join(files), mix_ratio=ratio)
    splits, dropped = load_pairs(args)
    found = rows(splits["train"])
    assert found[: len(DOMAIN)] == DOMAIN
    mixed = found[len(DOMAIN) :]
    assert len({*mixed} & {*PAIRS}) == len(mixed) == drawn
    assert dropped["train"].kept == len(found)
    assert rows(splits["validation"]) == DOMAIN[:5]
    if 1 < drawn < len(PAIRS):  # of both files, not the first ones
        assert mixed != PAIRS[:drawn]
    assert rows(load_pairs(args)[0]["train"]) == found


def test_validation_is_of_the_new_kind_and_not_learnt(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Though the other file holds the same sentences, with other marks and other translations."""
    others = [(text.upper().rstrip("."), f"又{zh}") for text, zh in DOMAIN] + [("", "空"), PAIRS[0]]
    mix_file = write_tsv(tmp_path / "others.tsv", others)
    args = DataArguments(
        train_file=write_tsv(tmp_path / "domain.tsv", DOMAIN),
        validation_split_percentage=30,
        mix_file=mix_file,
        mix_ratio=99,
    )
    with caplog.at_level(logging.INFO, "bahdanau_hf"):
        splits, dropped = load_pairs(args)
    validation, train = rows(splits["validation"]), rows(splits["train"])
    assert len(validation) > 5
    assert {*validation} <= {*DOMAIN}
    held, learnt = ({sentence_key(en) for en, _ in split} for split in (validation, train))
    assert not held & learnt
    assert len(learnt) == len(DOMAIN) - len(validation) + 1
    assert PAIRS[0] in train
    assert dropped["train"].counts["empty"] == 1
    num_mixed = len(train) - (len(DOMAIN) - len(validation))
    assert f"Mixed in: {num_mixed} of {len(others)} pairs of {mix_file}" in caplog.messages


def test_a_flaw_of_the_other_file_is_told(tmp_path: Path) -> None:
    domain = write_tsv(tmp_path / "domain.tsv", DOMAIN)
    with pytest.raises(InputError, match=r"no such file: .*others\.tsv"):
        load_pairs(DataArguments(train_file=domain, mix_file=str(tmp_path / "others.tsv")))
    with pytest.raises(InputError, match=r"every pair of .*domain\.tsv shares a sentence with val"):
        load_pairs(DataArguments(train_file=domain, validation_file=domain, mix_file=domain))
