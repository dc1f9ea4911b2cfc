"""A run on the Hub: pushed at each validation, in the background, and at the end."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from ..checkpoints.run_folder import write_json
from ..data.preprocessing import pair_texts
from ..distributed import on_main_process
from ..errors import InputError
from ..hub.push import open_repository, push_folder
from ..metrics.translation import score_translations
from .arguments import TrainArguments
from .evaluation import write_alignments
from .run import Run, repository_name, save_release

logger = logging.getLogger(__name__)


def open_hub(accelerator: Accelerator, args: TrainArguments) -> None:
    """See, before any work is done, that the Hub will take what the run pushes.

    Raises:
        InputError: it cannot be reached, or refuses the token, its rights or the name.
    """
    if args.push_to_hub:
        on_main_process(
            accelerator,
            lambda: open_repository(
                repository_name(args), private=args.hub_private_repo, token=args.hub_token
            ),
        )


def publish_step(run: Run) -> None:
    """Push the model as it was just validated, while training goes on.

    It is complete: with a card, with the scores of this validation and with an attention map, made
    in a folder of its own. While the last push is on its way, none is started. A Hub or a disk that
    fails does not end the training.
    """
    if run.pushes is None or not run.accelerator.is_main_process:
        return
    message = f"Step {run.state.step}"
    if run.pushes.is_busy:
        logger.info("%s is not published: the last push is still on its way", message)
        return
    folder = Path(tempfile.mkdtemp(prefix="bahdanau-push-"))
    try:
        _fill(run, folder)
    except (InputError, OSError) as error:
        logger.warning("%s was not published: %s", message, error)
        shutil.rmtree(folder, ignore_errors=True)
        return
    run.pushes.start(folder, message)


def publish(run: Run) -> str | None:
    """Push what `output_dir` holds, after what is still on its way.

    Returns:
        Where the commit can be seen.

    Raises:
        InputError: the Hub cannot be reached or refuses.
    """
    args, name = run.args, repository_name(run.args)
    if run.pushes is not None:
        run.pushes.wait()
    try:
        return push_folder(
            run.output_dir,
            name,
            private=args.hub_private_repo,
            token=args.hub_token,
            message=f"Step {run.state.step}",
        )
    except InputError as error:
        again = f"bahdanau-hf push {run.output_dir} {name}"
        raise InputError(f"{error}. The model is whole in {run.output_dir}; {again}") from None


def _fill(run: Run, folder: Path) -> None:
    """Write the present model with its records, as a finished run leaves them."""
    settings = run.output_dir / "settings.json"
    if settings.is_file():
        shutil.copy(settings, folder)
    write_json(folder / "eval_results.json", _results(run))
    sources, _ = _validation_texts(run)
    write_alignments(folder, run.bare_model, run.tokenizer, sources)
    save_release(run, folder)


def _results(run: Run) -> dict[str, Any]:
    """The last validation in the form of a finished run's `eval_results.json`."""
    line = run.state.validations[-1]
    _, references = _validation_texts(run)
    # Signatures do not depend on the sentences.
    signed = score_translations(
        references[:1], references[:1], target_lang=run.data_args.target_lang
    )
    validation = {
        "bleu": line["eval_bleu"],
        "bleu_signature": signed.bleu_signature,
        "chrf": line["eval_chrf"],
        "chrf_signature": signed.chrf_signature,
        "num_sentences": len(references),
        "num_beams": run.args.eval_num_beams or 1,
        "loss": line["eval_loss"],
    }
    return {"validation": validation, "steps": line["step"], "weights": f"step {line['step']}"}


def _validation_texts(run: Run) -> tuple[list[str], list[str]]:
    langs = (run.data_args.source_lang, run.data_args.target_lang)
    return pair_texts(run.pairs.texts["validation"], *langs, run.args.max_eval_translations)
