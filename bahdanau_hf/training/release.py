"""The end of a run: choose the weights, translate and score, leave a complete checkpoint."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from typing import Any

from ..checkpoints.run_folder import list_checkpoints, verify_checkpoint, write_json
from ..checkpoints.save_load import load_weights, mean_weights
from ..data.preprocessing import pair_texts
from ..errors import InputError
from ..hub.model_card import write_model_card
from ..inference.alignment_error import alignment_quality
from ..inference.translator import Translator
from ..metrics.translation import TranslationScores
from ..reporting.run_report import write_report
from .evaluation import (
    precision_of_training,
    score_on_main,
    translate_on_all,
    write_alignments,
    write_test_results,
)
from .loop import measure
from .run import Run, save_release

logger = logging.getLogger(__name__)


@dataclass
class ScoredSplit:
    """A held-out split with its translations and their scores; lists of one length."""

    sources: list[str]
    references: list[str]
    hypotheses: list[str]
    scores: TranslationScores


def finish(run: Run) -> dict[str, ScoredSplit]:
    """Turn a trained run into a release: weights, scores, report and card in its `output_dir`.

    Returns:
        The splits that were scored: `validation` and, unless it is skipped or missing, `test`.
    """
    output_dir, is_main = run.output_dir, run.accelerator.is_main_process
    chosen = choose_weights(run)
    if is_main:
        save_release(run)
    splits = {"validation": score_split(run, "validation")}
    if "test" in run.pairs.texts and not run.args.skip_test:
        splits["test"] = score_split(run, "test")
    if is_main:
        if "test" in splits:
            test = splits["test"]
            texts = (test.sources, test.references, test.hypotheses)
            write_test_results(output_dir, *texts, run.data_args.target_lang)
        shown = splits.get("test", splits["validation"])
        with precision_of_training(run.accelerator, run.bare_model):
            write_alignments(output_dir, run.bare_model, run.tokenizer, shown.sources)
        results: dict[str, Any] = {
            name: {**split.scores.as_dict(), "num_beams": run.args.num_beams}
            for name, split in sorted(splits.items())
        }
        results["validation"]["loss"] = chosen.pop("loss")
        if _held_alignments_out(run):
            with precision_of_training(run.accelerator, run.bare_model):
                results["alignment"] = alignment_quality(Translator(run.bare_model, run.tokenizer))
        results |= {
            "steps": run.state.step,
            "epochs": run.state.epoch,
            "stopped_because": run.state.finished,
            "train_runtime_seconds": round(run.state.seconds, 1),
            **chosen,
        }
        write_json(output_dir / "eval_results.json", results)
        write_model_card(output_dir)
        write_report(output_dir)
    run.accelerator.wait_for_everyone()
    return splits


def _held_alignments_out(run: Run) -> bool:
    """Whether the bundled alignments are of sentences like the run's, and not of its training's."""
    data = run.data_args
    is_bundled = not data.train_file and not data.dataset_name
    return (
        is_bundled and data.chinese_script != "traditional" and run.bare_model.config.use_attention
    )


def choose_weights(run: Run) -> dict[str, Any]:
    """Give the model its best weights: the best checkpoint's or, if better, the last ones' mean.

    Returns:
        For `eval_results.json`: which `weights` were taken, the `best_step`, and their `loss`.
    """
    state, wanted = run.state, run.args.average_last_checkpoints
    best = next(line for line in state.validations if line["step"] == state.best_step)
    kept = list_checkpoints(run.output_dir)
    if best["step"] not in kept:
        raise InputError(f"the best checkpoint, checkpoint-{best['step']}, is gone: restore it")
    folder = kept[best["step"]]
    verify_checkpoint(folder)
    load_weights(run.bare_model, folder)
    result = {"weights": folder.name, "best_step": best["step"], "loss": best["eval_loss"]}
    steps = [line["step"] for line in state.validations[-wanted:]] if wanted else []
    steps = [step for step in steps if step in kept]
    if len(steps) < 2:
        return result
    for step in steps:
        verify_checkpoint(kept[step])
    before = copy.deepcopy(run.bare_model.state_dict())
    mean = mean_weights([kept[step] for step in steps])
    run.bare_model.load_state_dict(mean, strict=False)  # a tied weight is saved once
    scores = measure(run)
    names = ", ".join(map(str, steps))
    if run.ranking(scores) > run.ranking(best):
        logger.info("The mean of the weights of the steps %s is better and taken", names)
        return {**result, "weights": f"mean of the steps {names}", "loss": scores["eval_loss"]}
    run.bare_model.load_state_dict(before)
    logger.info("The mean of the weights of the steps %s is no better: best step taken", names)
    return result


def score_split(run: Run, name: str) -> ScoredSplit:
    """Translate a split in the precision of training, and score it; on every process."""
    source_lang, target_lang = run.data_args.source_lang, run.data_args.target_lang
    sources, references = pair_texts(run.pairs.texts[name], source_lang, target_lang)
    with precision_of_training(run.accelerator, run.bare_model):
        hypotheses = translate_on_all(
            run.bare_model,
            run.tokenizer,
            sources,
            run.accelerator,
            batch_size=run.args.per_device_eval_batch_size,
            num_beams=run.args.num_beams,
        )
    scores = score_on_main(run.accelerator, hypotheses, references, target_lang)
    return ScoredSplit(sources, references, hypotheses, scores)
