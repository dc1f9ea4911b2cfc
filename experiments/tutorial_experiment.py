"""The tutorial's own experiment: learn 2,000 short pairs, then translate the same pairs again.

    python -m experiments.tutorial_experiment PAIRS.tsv --held_out TEST.tsv

It counts the sentences whose BLEU-2, the tutorial's, is above 0 and above 0.8. As the pairs are
those that were learnt, this measures memory: BLEU on held-out pairs stands beside it. The ceiling
is what a perfect memory could reach: sources that the vocabulary cannot tell apart get one
translation. The tutorial's turns words that occur once into `<unk>`, which leaves 1,579 of 1,757
sources apart; a recipe that keeps all words may pass its ceiling without translating any better.

Five ways: `program`, the tutorial's own code (`--program`, see tutorial_program.py); `plain`, the
same in PyTorch's modules one step at a time; `tutorial`, recipes/tutorial.yaml; `ours`, learning by
heart with the tutorial's vocabulary; `ours-all-words`, the same with every word. All get the same
batches. CPU seconds are those of training alone, all threads together.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import torch
import transformers
from accelerate.utils import set_seed
from torch import Tensor

from bahdanau_hf.data.tokenization import BOS_ID, EOS_ID, PAD_ID
from bahdanau_hf.metrics.translation import score_translations, tutorial_counts
from bahdanau_hf.modeling.pipeline_bahdanau import find_translations
from bahdanau_hf.training.arguments import parse_arguments
from bahdanau_hf.training.pairs import RunPairs
from bahdanau_hf.training.run import Run
from bahdanau_hf.training.setup import (
    open_output_dir,
    prepare_model,
    prepare_tokenizer,
    start_accelerator,
)
from bahdanau_hf.training.step import take_step
from benchmarks.machine import command_line, describe_machine
from benchmarks.plain_seq2seq import PlainSeq2Seq
from benchmarks.stopwatch import Contender, race

from . import tutorial_program
from .tutorial_ceiling import ceiling, characters, encode, held_out, likeliest, texts
from .tutorial_report import table

ROOT = Path(__file__).parents[1]
MARKS = {"<pad>": PAD_ID, "<bos>": BOS_ID, "<eos>": EOS_ID}
NUM_PAIRS = 2000
EPOCHS = {"program": 100, "plain": 100, "tutorial": 100, "ours": 20, "ours-all-words": 20}
# Nothing held back, for nothing is to be carried over to other sentences.
OURS = {
    "tokenizer_kind": "word-char",
    "min_frequency": 2,
    "embedding_size": 128,
    "hidden_size": 128,
    "dropout": 0,
    "per_device_train_batch_size": 32,
    "learning_rate": 0.004,
    "lr_scheduler_type": "linear",
    "num_warmup_steps": 60,
    "embedding_initializer_range": 0.3,
    "adam_beta2": 0.98,
}


@dataclass(frozen=True)
class Result:
    """What one training has reached.

    Attributes:
        recipe: one of `EPOCHS`.
        seed: of initial weights, order and dropout.
        epochs: passes over the pairs.
        cpu_seconds: of training.
        positive: sentences with BLEU-2 above 0.
        above_0_8: sentences with BLEU-2 above 0.8.
        ceiling: both counters of a perfect memory with the recipe's vocabulary.
        likeliest: both counters of what greedy search finds in a perfect memory of likelihoods.
        sources: different sources as the vocabulary tells them apart.
        held_out_bleu: corpus BLEU on held-out pairs; `None` without any.
        signature: of that BLEU.
    """

    recipe: str
    seed: int
    epochs: float
    cpu_seconds: float
    positive: int
    above_0_8: int
    ceiling: tuple[int, int]
    likeliest: tuple[int, int]
    sources: int
    held_out_bleu: float | None
    signature: str | None


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print: a line of JSON for each training, then all as a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pairs", help="file of pairs; the first 2,000 are used")
    parser.add_argument("--held_out", help="file of further pairs; those in PAIRS are left out")
    parser.add_argument("--program", type=Path, help="the tutorial's own, a Python file")
    parser.add_argument("--recipes", nargs="+", choices=EPOCHS, default=list(EPOCHS)[1:])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--epochs", type=float, help="instead of each recipe's own")
    parser.add_argument("--num_pairs", type=int, default=NUM_PAIRS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--race", action="store_true", help="time a pass of program, plain and tutorial"
    )
    parser.add_argument("--results", type=Path, help="keep the numbers here, beside others")
    args = parser.parse_args(arguments)
    if args.program is None and (args.race or "program" in args.recipes):
        parser.error("the tutorial's own program needs --program, its Python file")
    torch.set_num_threads(args.threads)
    logging.getLogger("bahdanau_hf").setLevel(logging.ERROR)
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    if args.race:
        found = race_passes(args) | {"machine": this_run()}
        print(json.dumps(found))
        if args.results:
            path = args.results.with_name(f"{args.results.stem}-race.json")
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        return 0
    lines: list[dict[str, Any]] = []
    for recipe, seed in itertools.product(args.recipes, args.seeds):
        lines.append(asdict(measure(recipe, seed, args)) | {"machine": this_run()})
        if args.results:
            keep(lines, args.results)
    print(f"\nThe pairs are those that were learnt: the counters measure memory.\n\n{table(lines)}")
    return 0


def keep(results: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the results, in place of what the file has of the same recipes and seeds."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    lines = {(line["recipe"], line["seed"]): line for line in [*kept, *results]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([*lines.values()], indent=1) + "\n", encoding="utf-8")


def this_run() -> dict[str, Any]:
    """Machine and command."""
    return describe_machine() | {"command": command_line("experiments.tutorial_experiment")}


def measure(recipe: str, seed: int, args: argparse.Namespace) -> Result:
    """Train once, translate what was learnt and what was not, and count."""
    epochs = args.epochs or EPOCHS[recipe]
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(recipe, seed, epochs, args, Path(folder) / "run")
        sources, references = texts(run, "train")
        began = time.process_time()
        if recipe == "program":
            translate = learn_by_program(run, epochs, tutorial_program.load_program(args.program))
        else:
            translate = (learn_plainly if recipe == "plain" else learn)(run, epochs)
        cpu_seconds = time.process_time() - began
        counts = tutorial_counts(translate(sources), references)
        bleu = signature = None
        if args.held_out:
            held_sources, held_references = held_out(run, {*sources}, {*references})
            hypotheses = ["".join(tokens) for tokens in translate(held_sources)]
            scores = score_translations(hypotheses, held_references)
            bleu, signature = scores.bleu, scores.bleu_signature
        most, likely = ceiling(run, sources, references), likeliest(run, sources, references)
        apart = len({*map(tuple, encode(run, sources))})
    seconds = round(cpu_seconds, 1)
    result = Result(recipe, seed, epochs, seconds, *counts, most, likely, apart, bleu, signature)
    print(json.dumps(asdict(result)), flush=True)
    return result


def prepare(
    recipe: str, seed: int, epochs: float, args: argparse.Namespace, output_dir: Path
) -> Run:
    """Everything up to the first step, as `scripts/train.py` does it."""
    values: dict[str, Any] = {
        "train_file": args.pairs,
        # A validation split must be named, or it would be cut from the pairs. It is only looked at.
        "validation_file": args.held_out or args.pairs,
        "max_train_samples": args.num_pairs,
        "max_length_ratio": 100,  # no pair is left out
        "output_dir": output_dir,
        "seed": seed,
        "num_train_epochs": epochs,
        "eval_steps": 10**9,
        "logging_steps": 10**9,
        "max_eval_translations": 1,
    }
    start = ["tutorial"]
    if recipe.startswith("ours"):
        start, values = [], OURS | values
    if recipe == "ours-all-words":
        values["min_frequency"] = 1
    flags = [f"--{name}={value}" for name, value in values.items()]
    settings = parse_arguments(start + flags)
    accelerator = start_accelerator(settings)
    open_output_dir(accelerator, settings)
    set_seed(seed)
    pairs = RunPairs.load(settings.data)
    tokenizer = prepare_tokenizer(accelerator, settings, pairs.texts["train"])
    pairs.encode(tokenizer, settings.data)
    model = prepare_model(settings, tokenizer)
    return Run(accelerator, settings, pairs, tokenizer, model)


def learn(run: Run, epochs: float) -> Callable[[Sequence[str]], list[list[str]]]:
    """Train our model; returns what translates sentences into tokens."""
    run.train()
    model = run.bare_model.eval()

    def translate(sentences: Sequence[str]) -> list[list[str]]:
        ids = encode(run, sentences)
        found = []
        for start in range(0, len(ids), 250):
            options = {"num_beams": 1, "max_new_tokens": run.settings.data.max_target_length}
            batch = find_translations(model, run.tokenizer, ids[start : start + 250], **options)
            found += [alternatives[0].ids for alternatives in batch]
        return [characters(run, row) for row in found]

    return translate


class ProgramBatches:
    """The batches of a run, a pass each time, in the form that the tutorial's program reads."""

    def __init__(self, run: Run):
        self.run = run

    def __iter__(self) -> Iterator[tuple[Tensor, ...]]:
        for (batch,), _ in self.run.batches.steps(self.run.state, 1):
            lengths = batch["attention_mask"].sum(dim=1), (batch["labels"] != -100).sum(dim=1)
            yield batch["input_ids"], lengths[0], batch["labels"].clamp(min=PAD_ID), lengths[1]
        self.run.state.epoch += 1


def program_parts(run: Run, program: ModuleType) -> tuple[Any, tutorial_program.Words]:
    """The program's network of a run's sizes, and the target words."""
    config = run.bare_model.config
    sizes = (config.embedding_size, config.hidden_size, config.encoder_layers, config.dropout)
    network = tutorial_program.build(program, config.encoder_vocab_size, config.vocab_size, sizes)
    return network, tutorial_program.Words(MARKS, decode=lambda ids: characters(run, ids))


def learn_by_program(
    run: Run, epochs: float, program: ModuleType
) -> Callable[[Sequence[str]], list[list[str]]]:
    """Let the tutorial's program train its own model; returns what translates."""
    network, target_words = program_parts(run, program)
    rate, steps = run.settings.train.learning_rate, run.settings.data.max_source_length
    tutorial_program.train(program, network, ProgramBatches(run), rate, int(epochs), target_words)
    source_words = tutorial_program.Words(MARKS, encode=lambda text: encode(run, [text])[0][:-1])

    @torch.no_grad()
    def translate(sentences: Sequence[str]) -> list[list[str]]:
        vocabularies = (source_words, target_words)
        cpu = torch.device("cpu")
        found = (program.predict_seq2seq(network, s, *vocabularies, steps, cpu) for s in sentences)
        return [words.split(" ") for words, _ in found]

    return translate


def learn_plainly(run: Run, epochs: float) -> Callable[[Sequence[str]], list[list[str]]]:
    """Train the plain model on the same batches by the same rule; returns what translates."""
    model, length = plain_model(run), run.settings.data.max_source_length
    for gru in (model.encoder, model.decoder):  # the tutorial's linear layers are not there yet
        for name, parameter in gru.named_parameters():
            if "weight" in name:
                torch.nn.init.xavier_uniform_(parameter)
    take_pass = plain_passes(run, model)
    for _ in range(int(epochs)):
        take_pass()
        run.state.epoch += 1
    model.eval()

    @torch.no_grad()
    def translate(sentences: Sequence[str]) -> list[list[str]]:
        found = []
        for ids in encode(run, sentences):
            source = torch.tensor([ids + [0] * (length - len(ids))])
            annotations, state = model.encode(source)
            word, words = torch.tensor([[1]]), []
            for _ in range(run.settings.data.max_target_length):
                logits, state = model.decode(word, annotations, state, torch.tensor([len(ids)]))
                word = logits.argmax(dim=2)
                words.append(int(word))
                if words[-1] == EOS_ID:
                    break
            found.append(characters(run, words))
        return found

    return translate


def plain_model(run: Run) -> PlainSeq2Seq:
    """The plain model of the sizes of a run's."""
    config = run.bare_model.config
    return PlainSeq2Seq(
        config.encoder_vocab_size,
        config.vocab_size,
        config.embedding_size,
        config.hidden_size,
        config.encoder_layers,
        float(config.dropout),
    )


def plain_passes(run: Run, model: PlainSeq2Seq) -> Callable[[], None]:
    """What trains the plain model for a pass each time it is called."""
    optimizer = torch.optim.Adam(model.parameters(), lr=run.settings.train.learning_rate)

    def take_pass() -> None:
        for (batch,), _ in run.batches.steps(run.state, 1):
            optimizer.zero_grad()
            lengths = batch["attention_mask"].sum(dim=1)
            loss = model.loss(batch["input_ids"], lengths, batch["labels"], start=1)
            (loss / batch["labels"].shape[1]).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), run.settings.train.max_grad_norm)
            optimizer.step()

    return take_pass


def race_passes(args: argparse.Namespace, rounds: int = 5) -> dict[str, float]:
    """CPU seconds of a pass over the pairs, the tutorial's, the plain model's and ours, in turns.

    Returns:
        The median of each, and by how many times ours is faster (median of the rounds).
    """
    with tempfile.TemporaryDirectory() as folder:
        run = prepare("tutorial", 1, 1, args, Path(folder) / "run")
        run.model.train()

        def take_pass() -> None:
            for batches, _ in run.batches.steps(run.state, 1):
                take_step(run, batches)

        program = tutorial_program.load_program(args.program)
        network, words = program_parts(run, program)
        pass_of_program = functools.partial(
            tutorial_program.train,
            *(program, network, ProgramBatches(run), run.settings.train.learning_rate, 1, words),
        )
        contenders = {
            "program": Contender(pass_of_program, 1),
            "plain": Contender(plain_passes(run, plain_model(run)), 1),
            "tutorial": Contender(take_pass, 1),
        }
        timings = race(contenders, rounds)
    ours = timings["tutorial"]
    return {
        **{name: round(statistics.median(timing.seconds), 3) for name, timing in timings.items()},
        "times_as_fast": round(ours.times_as_fast_as(timings["program"]), 3),
        "times_as_fast_as_plain": round(ours.times_as_fast_as(timings["plain"]), 3),
    }


if __name__ == "__main__":
    raise SystemExit(main())
