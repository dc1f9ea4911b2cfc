"""A run as others get it: the weights chosen, scored, saved with a card, and pushed to the Hub."""

from __future__ import annotations

import logging
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accelerate import Accelerator

from ..checkpoints import run_folder
from ..checkpoints.save_load import load_weights, mean_weights
from ..distributed import on_main_process
from ..errors import InputError
from ..files import read_json
from ..hub.model_card import write_model_card
from ..hub.notebook import write_notebook
from ..hub.push import open_repository, push_folder
from ..inference.alignment_error import alignment_quality
from ..inference.confidence import calibrate
from ..metrics.analysis import score_groups
from ..metrics.translation import score_translations
from ..reporting.run_report import write_report
from . import evaluation
from .arguments import Settings, TrainArguments

if TYPE_CHECKING:
    from .run import Run

logger = logging.getLogger(__name__)


def finish(run: Run) -> dict[str, evaluation.ScoredSplit]:
    """Turn a trained run into a release: weights, scores, report and card in its `output_dir`.

    Returned are `validation` and, unless it is skipped or missing, `test`.
    """
    output_dir, train, data = run.output_dir, run.settings.train, run.settings.data
    chosen = choose_weights(run)
    if run.accelerator.is_main_process:
        run.save_release()
    has_test = "test" in run.pairs.texts and not train.skip_test
    names = ["validation", "test"] if has_test else ["validation"]
    splits = {name: evaluation.score_split(run, name, num_beams=train.num_beams) for name in names}
    if run.accelerator.is_main_process:
        last = splits[names[-1]]
        if has_test:
            evaluation.write_test_results(run, last)
        evaluation.write_alignments(run, output_dir, last.sources, last.references)
        results: dict[str, Any] = {
            name: {
                **split.scores.as_dict(),
                "num_beams": train.num_beams,
                **score_groups(
                    *(split.sources, split.hypotheses, split.references, run.trained_on()),
                    source_lang=data.source_lang,
                    **run.target,
                ),
            }
            for name, split in sorted(splits.items())
        }
        results["validation"]["loss"] = chosen.pop("loss")
        results |= _calibrated(run, splits["validation"])
        # The bundled alignments are of sentences like the bundled pairs, and not among them.
        is_other = data.train_file or data.dataset_name or data.chinese_script == "traditional"
        if run.bare_model.config.use_attention and not is_other:
            with evaluation.precision_of_training(run.accelerator, run.bare_model):
                results["alignment"] = alignment_quality(run.translator)
        results |= {
            "steps": run.state.step,
            "epochs": run.state.epoch,
            "stopped_because": run.state.finished,
            "train_runtime_seconds": round(run.state.seconds, 1),
            **chosen,
        }
        run_folder.write_json(run.results_file, results)
        write_model_card(output_dir)
        write_report(output_dir)
    run.accelerator.wait_for_everyone()
    return splits


def _calibrated(run: Run, split: evaluation.ScoredSplit) -> dict[str, Any]:
    """Teach the released model how sure it may be; how well it learnt, for `eval_results.json`."""
    texts = (split.sources, split.hypotheses, split.references)
    try:
        with evaluation.precision_of_training(run.accelerator, run.bare_model):
            found = calibrate(run.translator, *texts)
    except InputError as error:
        logger.info("%s", error)
        return {}
    path = run.output_dir / "config.json"
    run_folder.write_json(path, read_json(path) | {"confidence": run.bare_model.config.confidence})
    return {"confidence": found}


def choose_weights(run: Run) -> dict[str, Any]:
    """Give the model its best weights: the best checkpoint's or, if better, the last ones' mean.

    Returns:
        For `eval_results.json`: which `weights` were taken, the `best_step`, and their `loss`.
    """
    state, wanted = run.state, run.settings.train.average_last_checkpoints
    best = next(line for line in state.validations if line["step"] == state.best_step)
    kept = run_folder.list_checkpoints(run.output_dir)
    if best["step"] not in kept:
        raise InputError(f"the best checkpoint, checkpoint-{best['step']}, is gone: restore it")
    folder = kept[best["step"]]
    run_folder.verify_checkpoint(folder)
    load_weights(run.bare_model, folder)
    result = {"weights": folder.name, "best_step": best["step"], "loss": best["eval_loss"]}
    last = state.validations[-wanted:] if wanted else []
    steps = [line["step"] for line in last if line["step"] in kept]
    if len(steps) < 2:
        return result
    for step in steps:
        run_folder.verify_checkpoint(kept[step])
    mean = mean_weights([kept[step] for step in steps])
    run.bare_model.load_state_dict(mean, strict=False)  # a tied weight is saved once
    scores = run.measure()
    names = ", ".join(map(str, steps))
    if run.ranking(scores) > run.ranking(best):
        logger.info("The mean of the weights of the steps %s is better and taken", names)
        return {**result, "weights": f"mean of the steps {names}", "loss": scores["eval_loss"]}
    load_weights(run.bare_model, folder)
    logger.info("The mean of the weights of the steps %s is no better: best step taken", names)
    return result


def save_release(run: Run, folder: Path | None = None) -> None:
    """Write the model as it is now, complete and with a card; default: into `output_dir`."""
    folder = folder or run.output_dir
    with run_folder.writing_aside(folder / "model.safetensors") as aside:
        run.bare_model.save_pretrained(aside)
        run.tokenizer.save_pretrained(aside)
        run_folder.share_files(aside)
        run_folder.move_files(aside, folder)
    write_model_card(folder, name=repository_name(run.settings.train))
    write_notebook(folder)


# --- the Hub -------------------------------------------------------------------------------------


def repository_name(args: TrainArguments) -> str:
    """The repository that a run is pushed to."""
    return args.hub_model_id or Path(args.output_dir).resolve().name


def open_hub(accelerator: Accelerator, settings: Settings) -> None:
    """Raise an `InputError`, before any work is done, if the Hub refuses token, rights or name."""
    args = settings.train
    name, private, token = repository_name(args), args.hub_private_repo, args.hub_token
    if args.push_to_hub:
        on_main_process(accelerator, lambda: open_repository(name, private=private, token=token))


def publish_step(run: Run) -> None:
    """Push the model as it was just validated, complete with a card, scores and an attention map.

    Training goes on meanwhile, and is not ended by a Hub or a disk that fails. While the last push
    is on its way, none is started.
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
    """Push what `output_dir` holds, after what is on its way; returned is where it can be seen.

    Raises:
        InputError: the Hub cannot be reached or refuses.
    """
    args, name = run.settings.train, repository_name(run.settings.train)
    options: dict[str, Any] = {"private": args.hub_private_repo, "token": args.hub_token}
    if run.pushes is not None:
        run.pushes.wait()
    try:
        return push_folder(run.output_dir, name, message=f"Step {run.state.step}", **options)
    except InputError as error:
        again = f"bahdanau-hf push {run.output_dir} {name}"
        raise InputError(f"{error}. The model is whole in {run.output_dir}; {again}") from None


def _fill(run: Run, folder: Path) -> None:
    """Write the present model with its records, as a finished run leaves them."""
    train, line = run.settings.train, run.state.validations[-1]
    shutil.copy(run.output_dir / "settings.json", folder)
    sources, references = run.texts("validation", train.max_eval_translations)
    # Signatures do not depend on the sentences.
    signed = score_translations(references[:1], references[:1], **run.target)
    validation = {name: line[f"eval_{name}"] for name in ("bleu", "chrf", "loss")} | {
        "bleu_signature": signed.bleu_signature,
        "chrf_signature": signed.chrf_signature,
        "num_sentences": len(references),
        "num_beams": train.eval_num_beams or 1,
    }
    weights = {"steps": line["step"], "weights": f"step {line['step']}"}
    run_folder.write_json(folder / "eval_results.json", {"validation": validation, **weights})
    evaluation.write_alignments(run, folder, sources, references)
    save_release(run, folder)
