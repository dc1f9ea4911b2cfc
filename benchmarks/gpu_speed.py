"""Training and decoding on a CUDA device: the plain loop, graphs, MarianMT, the floor.

Times are wall-clock seconds between two waits for the device. The floor of a recurrence is what no
arrangement of it can beat: its multiplications at the rate that the device shows on large ones, or
its bytes (the weights once a step, the keys and gates of the batch once a step) at the rate of a
large copy, whichever takes longer. On a device without CUDA the same code runs at toy sizes, which
says nothing about speed; that is what the test does.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationMixin

from bahdanau_hf import BahdanauForConditionalGeneration

from .contenders import make_marian, make_ours, make_plain
from .decoding_speed import fix_lengths, generation
from .results import Goal, Row, Section
from .stopwatch import Contender, race
from .training_speed import Training
from .workload import BATCH_SIZE, MEAN_TARGET, Batch, even_batch

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
LENGTH = 50  # of the recurrence that is timed alone, source and target
GAIN = 1.3  # what a path has to gain to be worth its lines


@dataclass(frozen=True)
class Scale:
    """How large the models and batches are."""

    embedding_size: int = 256
    hidden_size: int = 512
    batch_size: int = BATCH_SIZE
    length: int = LENGTH
    rounds: int = 5
    least_seconds: float = 0.3
    dtypes: tuple[str, ...] = tuple(DTYPES)


TOY = Scale(8, 16, 2, 3, rounds=1, least_seconds=0.0, dtypes=("bfloat16",))


def measure(quick: bool) -> Section:
    """Measure on the CUDA device."""
    scale = Scale(rounds=2, least_seconds=0.1) if quick else Scale()
    return measure_on(torch.device("cuda"), scale)


def measure_on(device: torch.device, scale: Scale) -> Section:
    """Measure everything on a device."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU, toy sizes"
    section = Section(
        "GPU",
        f"{name}. Width {scale.embedding_size}/{scale.hidden_size}, batch {scale.batch_size}; "
        f"wall-clock seconds. Outputs of {MEAN_TARGET} words; training on {scale.length} x "
        f"{scale.length} tokens. MarianMT has as many parameters.",
    )
    for dtype in scale.dtypes:
        _measure_recurrence(section, device, scale, dtype)
        _measure_training(section, device, scale, dtype)
        _measure_decoding(section, device, scale, dtype)
    return section


def clock_of(device: torch.device) -> Callable[[], float]:
    """A clock that waits until the device has done what it was told."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def _autocast(device: torch.device, dtype: str) -> AbstractContextManager:
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[dtype])


def _ours(
    device: torch.device, scale: Scale, implementation: str
) -> BahdanauForConditionalGeneration:
    model = make_ours(make_plain(scale.embedding_size, scale.hidden_size)).to(device)
    model.set_implementation(implementation)
    return model


def _marian(device: torch.device, scale: Scale) -> GenerationMixin:
    size = make_ours(make_plain(scale.embedding_size, scale.hidden_size)).num_parameters()
    return make_marian(size).to(device)


def _on(batch: Batch, device: torch.device) -> Batch:
    return Batch(*(x.to(device) for x in batch))


def _race(
    section: Section,
    device: torch.device,
    scale: Scale,
    contenders: dict[str, Contender],
    unit: str,
) -> dict[str, float]:
    timings = race(contenders, scale.rounds, scale.least_seconds, clock_of(device))
    section.add_race(timings, unit)
    return {name: timing.rate for name, timing in timings.items()}


class _OnDevice(Training):
    """`Training`, with autocast of the device; float16 without a scaler of the loss."""

    def __init__(self, *args: Any, device: torch.device, dtype: str) -> None:
        super().__init__(*args)
        self.device, self.dtype = device, dtype

    def backward(self, batch: Batch) -> None:
        """Add a batch's gradients."""
        with _autocast(self.device, self.dtype):
            loss = self._loss(batch)
        loss.backward()


def _measure_training(section: Section, device: torch.device, scale: Scale, dtype: str) -> None:
    batch = _on(even_batch(scale.batch_size, scale.length, scale.length), device)
    ours, peer = f"training, ours, fast, {dtype}", f"training, MarianMT, {dtype}"
    models = {ours: _ours(device, scale, "fast"), peer: _marian(device, scale)}
    contenders = {
        name: _OnDevice(model, [batch], device=device, dtype=dtype).contender()
        for name, model in models.items()
    }
    rates = _race(section, device, scale, contenders, "target tokens/s")
    section.goals.append(Goal(f"{ours} / {peer}", 2, rates[ours] / rates[peer]))


def _measure_decoding(section: Section, device: torch.device, scale: Scale, dtype: str) -> None:
    batch = _on(even_batch(scale.batch_size, MEAN_TARGET, MEAN_TARGET), device)
    models: dict[str, GenerationMixin] = {
        "MarianMT": _marian(device, scale),
        "ours, fast": _ours(device, scale, "fast"),
        "ours, graph": _ours(device, scale, "graph"),
    }
    for model in models.values():
        fix_lengths(model)
        model.to(DTYPES[dtype]).eval()
    for beams in (1, 5):
        for size in (1, scale.batch_size):
            mode = f"{'greedy' if beams == 1 else f'{beams} beams'}, batch {size}, {dtype}"
            contenders = {
                f"decoding, {name}, {mode}": generation(
                    model, batch, size, size, max_new_tokens=MEAN_TARGET, num_beams=beams
                )
                for name, model in models.items()
            }
            rates = _race(section, device, scale, contenders, "sentences/s")
            graph = f"decoding, ours, graph, {mode}"
            for other, wanted in (("ours, fast", GAIN), ("MarianMT", 2)):
                name = f"decoding, {other}, {mode}"
                section.goals.append(Goal(f"{graph} / {name}", wanted, rates[graph] / rates[name]))


def _measure_recurrence(section: Section, device: torch.device, scale: Scale, dtype: str) -> None:
    """The decoder's steps with known inputs, forward, by the loop; the floor.

    The projections of the source and of the inputs, once a call, are in the time and not in the
    floor.
    """
    ours = _ours(device, scale, "fast")
    ours.to(DTYPES[dtype]).eval()
    decoder, T = ours.model.decoder, scale.length
    batch = _on(even_batch(scale.batch_size, T, T), device)
    outputs = ours.model.encoder(batch.input_ids, batch.attention_mask)
    call = {
        "input_ids": batch.labels,
        "encoder_hidden_states": outputs.last_hidden_state,
        "encoder_final_state": outputs.final_state,
        "encoder_attention_mask": batch.attention_mask,
        "use_cache": False,
    }

    def forward() -> None:
        with torch.no_grad():
            decoder(**call)

    contenders = {f"recurrence, fast, {dtype}": Contender(forward, float(T))}
    rates = _race(section, device, scale, contenders, "steps/s")
    floor = step_floor(ours, device, scale, DTYPES[dtype])
    section.rows.append(Row(f"recurrence, floor, {dtype}", floor * 1e6, "us a step"))
    for name, rate in rates.items():
        section.rows.append(Row(f"{name}, time over the floor", 1 / (rate * floor), "times"))


def step_floor(
    model: BahdanauForConditionalGeneration,
    device: torch.device,
    scale: Scale,
    dtype: torch.dtype,
) -> float:
    """Seconds that a forward step of the recurrence takes at least, from rates measured here."""
    config = model.config
    B, S, H = scale.batch_size, scale.length, config.hidden_size
    A = config.attention_hidden_size or H
    weights = 3 * H * H * (2 * config.decoder_layers - 1) + H * A
    source = B * S * (3 * H + A)
    multiplications = B * weights + source
    seconds_of = _rates(device, scale, dtype)
    return max(
        multiplications * seconds_of["multiplication"],
        (weights + source) * dtype.itemsize * seconds_of["byte"],
    )


def _rates(device: torch.device, scale: Scale, dtype: torch.dtype) -> dict[str, float]:
    """Seconds of one multiplication in a large product, and of one byte read in a large copy."""
    side = 4096 if scale is not TOY else 64
    x = torch.randn(side, side, device=device).to(dtype)
    y, size = torch.empty_like(x), x.numel() * x.element_size()
    contenders = {
        "multiplication": Contender(lambda: torch.mm(x, x, out=y), float(side**3)),
        "byte": Contender(lambda: y.copy_(x), 2.0 * size),  # read and written
    }
    timings = race(contenders, scale.rounds, scale.least_seconds, clock_of(device))
    return {name: 1 / timing.rate for name, timing in timings.items()}
