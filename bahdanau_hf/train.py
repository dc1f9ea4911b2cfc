"""Train a model: `accelerate launch -m bahdanau_hf.train [RECIPE] [--flag value ...]`.

RECIPE is the name of a recipe of the package, such as `tiny`, or a YAML file. In a single process
`bahdanau-hf train` does the same. `run_training` reads downward: pairs, tokenizer, model, run.
Exit status: 0 done, 1 training diverged, 2 a mistake in what was given, 130 or 143 stopped by a
signal, saved and ready to go on.
"""

from __future__ import annotations

import errno
import gc
import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .errors import InputError
from .training.arguments import Settings, parse_arguments

if TYPE_CHECKING:
    from .training.evaluation import ScoredSplit

NUM_EXAMPLES = 8
FULL_OR_CLOSED = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def run_training(settings: Settings) -> None:
    """Train as the arguments say."""
    import datasets
    from accelerate.utils import set_seed

    from .distributed import settle_processes
    from .training.pairs import RunPairs
    from .training.release import open_hub
    from .training.run import Run
    from .training.setup import (
        compile_kernels,
        open_output_dir,
        prepare_model,
        prepare_tokenizer,
        start_accelerator,
    )

    if not gc.get_freeze_count():  # what imports leave stays: it need not be looked through again
        gc.freeze()
    gc.enable()

    # Where it runs, and where it writes
    accelerator = start_accelerator(settings)
    is_main = accelerator.is_main_process
    if not (is_main and sys.stderr.isatty()):
        datasets.disable_progress_bars()
    if not is_main:
        logging.getLogger("bahdanau_hf").setLevel(logging.ERROR)
    checkpoint = open_output_dir(accelerator, settings)
    open_hub(accelerator, settings)
    set_seed(settings.train.seed)
    compiling = compile_kernels(accelerator, settings)

    # Pairs, tokenizer, model
    pairs = RunPairs.load(settings.data)
    tokenizer = prepare_tokenizer(accelerator, settings, pairs.texts["train"], checkpoint)
    pairs.encode(tokenizer, settings.data)
    model = prepare_model(settings, tokenizer)
    if is_main:
        if not settings.data.streaming:
            print(pairs.dropped_table())
        print(pairs.sizes())
        print(f"{model.num_parameters():,} parameters, {len(tokenizer):,} tokens", flush=True)

    # Training
    run = Run(accelerator, settings, pairs, tokenizer, model, checkpoint)
    if run.state.finished and run.results_file.is_file():
        print_once(
            f"The run in {run.output_dir} is finished: {run.state.finished}. To train on, raise "
            "--num_train_epochs, --max_train_steps or what else ended it."
        )
        return
    compiling.join()
    run.start_records()
    run.train()

    # Scores and release
    splits = run.finish()
    settle_processes()
    accelerator.end_training()
    if is_main:
        if settings.data.streaming:  # only now is it known
            print(pairs.dropped_table())
        for name, split in splits.items():
            print_scores(name, split)
        print(f"\nModel, scores and report: {run.output_dir}")
        if settings.train.push_to_hub:
            print(run.publish())


def print_scores(name: str, split: ScoredSplit) -> None:
    """Print a split's scores and some of its translations beside their references."""
    from .metrics.translation import few_sentences

    scores = split.scores
    few = few_sentences(scores.num_sentences)
    print(f"\n{name}: {few or f'{scores.num_sentences:,} sentences'}")
    print(f"  BLEU {scores.bleu:6.2f}   {scores.bleu_signature}")
    print(f"  chrF {scores.chrf:6.2f}   {scores.chrf_signature}")
    if name == "test":
        step = max(1, len(split.sources) // NUM_EXAMPLES)
        for i in range(0, len(split.sources), step)[:NUM_EXAMPLES]:
            print(f"\n  {split.sources[i]}")
            print(f"    translation  {split.hypotheses[i]}")
            print(f"    reference    {split.references[i]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a training and return the exit status.

    Without `arguments`, recipe and flags are this process's, which `accelerate launch` has started.
    """
    try:
        settings = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    except InputError as error:  # said before the libraries are imported, which takes seconds
        print_once(f"error: {error}")
        return 2

    gc.disable()  # while a million objects are made, none of them garbage
    import transformers
    from tqdm.contrib.logging import logging_redirect_tqdm

    from .distributed import ProcessLost, keep_launch_promises, settle_processes
    from .training.loop import TrainingInterrupted
    from .training.step import NonFiniteError, OutOfMemory

    if arguments is None:
        keep_launch_promises(["-m", "bahdanau_hf.train", *sys.argv[1:]])
    logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=sys.stderr)
    logging.getLogger("bahdanau_hf").setLevel(logging.INFO)
    transformers.utils.logging.disable_progress_bar()
    try:
        with logging_redirect_tqdm():
            run_training(settings)
    except TrainingInterrupted as stop:
        print_once(f"{stop}. Go on with --resume_from_checkpoint latest")
        settle_processes()
        return 128 + stop.signum
    except KeyboardInterrupt:
        print_once("stopped")
        return 130
    except ProcessLost:  # which has been told
        os._exit(1)  # nothing can be taken down in good order any more
    except (NonFiniteError, InputError) as error:
        # A lack of memory may have been met by one process alone.
        print_once(f"error: {error}", everywhere=isinstance(error, OutOfMemory))
        return 1 if isinstance(error, NonFiniteError) else 2
    except OSError as error:
        if error.errno not in FULL_OR_CLOSED:
            raise
        where = f" ({error.filename})" if error.filename else ""
        print_once(f"error: {error.strerror}{where}", everywhere=True)
        return 2
    return 0


def print_once(message: str, everywhere: bool = False) -> None:
    """Print to stderr, once a machine or in every process."""
    if everywhere or os.environ.get("LOCAL_RANK", "0") == "0":
        print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
