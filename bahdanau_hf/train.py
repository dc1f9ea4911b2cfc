"""Train a model: `accelerate launch -m bahdanau_hf.train [RECIPE] [--flag value ...]`.

RECIPE is the name of a recipe of the package, such as `tiny`, or a YAML file. In a single process
`bahdanau-hf train` does the same. `run_training` reads downward: pairs, tokenizer, model, run.
Exit status: 0 done, 1 training diverged, 2 a mistake in what was given, 130 or 143 stopped by a
signal, saved and ready to go on.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError
from .training.arguments import DataArguments, ModelArguments, TrainArguments, parse_arguments

if TYPE_CHECKING:
    from .training.release import ScoredSplit

NUM_EXAMPLES = 8
FULL_OR_CLOSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def run_training(
    model_args: ModelArguments, data_args: DataArguments, train_args: TrainArguments
) -> None:
    """Train as the arguments say."""
    import datasets
    from accelerate.utils import set_seed

    from .checkpoints.run_folder import write_json
    from .data.preprocessing import load_pairs
    from .distributed import settle_processes
    from .training.background_push import open_hub, publish
    from .training.loop import train
    from .training.release import finish
    from .training.run import start_run
    from .training.setup import (
        dropped_table,
        open_output_dir,
        prepare_features,
        prepare_model,
        prepare_tokenizer,
        run_settings,
        start_accelerator,
    )
    from .training.trackers import start_trackers

    output_dir = Path(train_args.output_dir)

    # Where it runs, and where it writes
    accelerator = start_accelerator(train_args)
    if not (accelerator.is_main_process and sys.stderr.isatty()):
        datasets.disable_progress_bars()
    if not accelerator.is_main_process:
        logging.getLogger("bahdanau_hf").setLevel(logging.ERROR)
    checkpoint = open_output_dir(accelerator, train_args)
    open_hub(accelerator, train_args)
    set_seed(train_args.seed)

    # Pairs, tokenizer, model
    texts, dropped = load_pairs(data_args)
    tokenizer = prepare_tokenizer(accelerator, model_args, data_args, texts["train"], checkpoint)
    pairs = prepare_features(texts, dropped, tokenizer, data_args)
    model = prepare_model(model_args, data_args, train_args, tokenizer)
    if accelerator.is_main_process:
        if not data_args.streaming:
            print(dropped_table(pairs.dropped))
        print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens", flush=True)

    # Training
    run = start_run(accelerator, model, tokenizer, pairs, data_args, train_args, checkpoint)
    results = output_dir / "eval_results.json"
    if run.state.finished and results.is_file():
        print_once(
            f"The run in {output_dir} is finished: {run.state.finished}. To train on, raise "
            "--num_train_epochs, --max_train_steps or what else ended it."
        )
        return
    accelerator.wait_for_everyone()
    settings = run_settings(accelerator, model, pairs, model_args, data_args, train_args)
    if accelerator.is_main_process:
        results.unlink(missing_ok=True)
        write_json(output_dir / "settings.json", settings)
    start_trackers(accelerator, output_dir, settings, run.state.step)
    train(run)

    # Scores and release
    splits = finish(run)
    settle_processes()
    accelerator.end_training()
    if accelerator.is_main_process:
        if data_args.streaming:  # only now is it known
            print(dropped_table(pairs.dropped))
        for split, scored in splits.items():
            print_scores(split, scored)
        print(f"\nModel, scores and report: {output_dir}")
        if train_args.push_to_hub:
            print(publish(run))


def print_scores(name: str, split: ScoredSplit) -> None:
    """Print a split's scores and some of its translations beside their references."""
    scores = split.scores
    print(f"\n{name}: {scores.num_sentences} sentences")
    print(f"  BLEU {scores.bleu:6.2f}   {scores.bleu_signature}")
    print(f"  chrF {scores.chrf:6.2f}   {scores.chrf_signature}")
    if name == "test":
        step = max(1, len(split.sources) // NUM_EXAMPLES)
        for i in range(0, len(split.sources), step)[:NUM_EXAMPLES]:
            print(f"\n  {split.sources[i]}")
            print(f"    translation  {split.hypotheses[i]}")
            print(f"    reference    {split.references[i]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a training; returns the exit status.

    Args:
        arguments: recipe and flags; default: this process's, which `accelerate launch` has started.
    """
    try:
        given = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:  # said before the libraries are imported, which takes seconds
        print_once(f"error: {error}")
        return 2

    import transformers
    from tqdm.contrib.logging import logging_redirect_tqdm

    from .distributed import ProcessLost, settle_processes, start_promised_processes
    from .training.loop import TrainingInterrupted
    from .training.run import NonFiniteError
    from .training.step import OutOfMemory

    if arguments is None:
        start_promised_processes(["-m", "bahdanau_hf.train", *sys.argv[1:]])
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("bahdanau_hf").setLevel(logging.INFO)
    transformers.utils.logging.disable_progress_bar()
    try:
        with logging_redirect_tqdm():
            run_training(*given)
    except TrainingInterrupted as stop:
        print_once(f"{stop}. Go on with --resume_from_checkpoint latest")
        settle_processes()
        return 128 + stop.signum
    except KeyboardInterrupt:
        print_once("stopped")
        return 130
    except ProcessLost:  # which has been told
        os._exit(1)  # nothing can be taken down in good order any more
    except NonFiniteError as error:
        print_once(f"error: {error}")
        return 1
    except OutOfMemory as error:  # which one process alone may have met
        print(f"error: {error}", file=sys.stderr, flush=True)
        return 2
    except InputError as error:
        print_once(f"error: {error}")
        return 2
    except OSError as error:
        if error.errno not in FULL_OR_CLOSED:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror}{where}", file=sys.stderr, flush=True)
        return 2
    return 0


def print_once(message: str) -> None:
    """Print to stderr, once a machine."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
