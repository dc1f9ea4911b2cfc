"""How cost grows: with source, target, batch and vocabulary; and the curves of the picture."""

from __future__ import annotations

import copy

import torch

from .contenders import make_ours, make_plain
from .decoding_speed import fix_lengths, generation, one_by_one
from .results import Curve, Goal, Row, Section
from .stopwatch import Contender, growth, race
from .training_speed import Training
from .workload import BATCH_SIZE, TARGET_SIZE, Batch, even_batch

# Batch size, source length, target length and target vocabulary; and what each is raised to.
START = {"batch": 32, "source": 10, "target": 10, "vocabulary": TARGET_SIZE}
FACTORS = (1, 2, 4)
BATCH_SIZES = (1, 4, 16, 64)
LENGTHS = (5, 10, 20, 40)
SHORT = 10  # the length where the batch grows


def measure(quick: bool) -> Section:
    """Time ours as each size doubles, and all along two axes."""
    section = Section(
        "Growth",
        f"CPU seconds of ours in float32 as one size grows from batch {START['batch']}, "
        f"{START['source']} x {START['target']} tokens, {START['vocabulary']} words.",
    )
    rounds = 2 if quick else 5
    for axis in START:
        _add_growth(section, axis, FACTORS[:2] if quick else FACTORS, rounds)
    if not quick:
        _add_curves(section, rounds)
    return section


def _add_growth(section: Section, axis: str, factors: tuple[int, ...], rounds: int) -> None:
    sizes = [START | {axis: START[axis] * factor} for factor in factors]
    for what in ("training", "decoding"):
        contenders = {}
        for size in sizes:
            ours = make_ours(make_plain(target_size=size["vocabulary"]))
            batch = even_batch(*size.values())
            if what == "training":
                contender = Training(ours, [batch]).contender()
            else:
                contender = _decoding(ours, batch, size["target"])
            contenders[f"{what}, {axis} {size[axis]}"] = contender._replace(amount=1)
        timings = race(contenders, rounds, 0.05)
        seconds = [1 / timing.rate for timing in timings.values()]
        section.rows += [Row(name, s, "CPU s") for name, s in zip(contenders, seconds, strict=True)]
        exponent = growth([float(size[axis]) for size in sizes], seconds)
        section.goals.append(Goal(f"{what}: ours grows as {axis} ^", 1.1, exponent, at_most=True))


def _decoding(model: torch.nn.Module, batch: Batch, words: int) -> Contender:
    model.eval()
    fix_lengths(model)
    return generation(model, batch, len(batch.input_ids), max_new_tokens=words)


def _add_curves(section: Section, rounds: int) -> None:
    """Tokens and sentences per CPU second, against batch size and length."""
    axes = {
        "batch size": {n: (n, SHORT) for n in BATCH_SIZES},
        "length": {n: (BATCH_SIZE, n) for n in LENGTHS},
    }
    plain = make_plain()
    ours = make_ours(plain)
    narrow = copy.deepcopy(ours).to(torch.bfloat16)
    for axis, sizes in axes.items():
        training: dict[str, Contender] = {}
        decoding: dict[str, Contender] = {}
        for n, (rows, length) in sizes.items():
            batch = even_batch(rows, length, length)
            training |= {
                f"plain loop|{n}": Training(make_plain(), [batch]).contender(),
                f"ours|{n}": Training(make_ours(plain), [batch]).contender(),
                f"ours, bfloat16|{n}": Training(make_ours(plain), [batch], bf16=True).contender(),
            }
            some = batch.input_ids[:4].tolist()
            plain.eval()
            decoding |= {
                f"plain loop, one by one|{n}": one_by_one(plain, some, some, padded=False),
                f"ours|{n}": _decoding(ours, batch, length),
                f"ours, bfloat16|{n}": _decoding(narrow, batch, length),
            }
        for panel, contenders in (("training", training), ("decoding", decoding)):
            rates = {key: t.rate for key, t in race(contenders, rounds, 0.1).items()}
            for name in dict.fromkeys(key.split("|")[0] for key in rates):
                line = [rates[f"{name}|{n}"] for n in sizes]
                section.curves.append(Curve(panel, axis, name, list(sizes), line))
