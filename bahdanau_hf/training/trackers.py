"""Where a run can be watched: accelerate's trackers, the tutorial's visdom, maps of the attention.

Scalars reach every tracker through accelerate. Attention maps go to those that take pictures here:
TensorBoard, trackio, wandb and visdom.
"""

from __future__ import annotations

import html
import importlib.util
import json
import logging
import math
import os
import time
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType
from transformers.utils.logging import warning_once

from ..alignment.record import Alignment
from ..distributed import gather_lists
from ..errors import InputError, first_line
from ..inference.translator import Translation
from ..reporting.attention_markup import EMPTY, LIGHT_HOT, visible
from ..reporting.attention_plot import alignment_pixels

logger = logging.getLogger(__name__)

PROJECT = "bahdanau_hf"
VISDOM_URL = "http://127.0.0.1:8097"
_TIMEOUT_SECONDS = 10
_REST_SECONDS = 60  # after a server has not answered
_OUR_EXTRA = {"tensorboard", "trackio"}


def choose_trackers(report_to: str, run_name: str) -> list[str | GeneralTracker]:
    """The trackers of `--report_to`, for `Accelerator`; `run_name` is visdom's environment.

    Raises:
        InputError: a tracker that is unknown or not installed, or no visdom server that answers.
    """
    names = [name.strip() for name in report_to.split(",") if name.strip() not in ("", "none")]
    known = sorted(str(kind.value) for kind in LoggerType if kind.value != "all")
    chosen: list[str | GeneralTracker] = []
    for name in dict.fromkeys(names):
        if name == "visdom":
            chosen.append(VisdomTracker(run_name, os.environ.get("VISDOM_URL", VISDOM_URL)))
            continue
        if name not in known:
            raise InputError(f"--report_to {name}: choose among {', '.join(known)}, visdom, none")
        if importlib.util.find_spec(name) is None:
            package = "'bahdanau-hf[trackers]'" if name in _OUR_EXTRA else name
            raise InputError(f"--report_to {name}: it is not installed; pip install {package}")
        chosen.append(name)
    return chosen


def start_trackers(
    accelerator: Accelerator, output_dir: Path, settings: Mapping[str, Any], step: int
) -> None:
    """Begin to report a run, which stands at `step`, under the name of its folder.

    TensorBoard forgets what it holds of later steps.

    Raises:
        InputError: on every process: a tracker cannot be started, for want of a login, say.
    """
    name = output_dir.resolve().name
    options = {
        "trackio": {"name": name, "resume": "allow" if step else "never"},
        "wandb": {"name": name},
        "tensorboard": {"purge_step": step + 1},
    }
    complaints = []
    try:
        accelerator.init_trackers(PROJECT, flat_settings(settings), init_kwargs=options)
    except Exception as error:  # each tracker has its own kinds
        complaints = [first_line(error)]
    for complaint in gather_lists(accelerator, complaints):
        raise InputError(
            f"--report_to: a tracker cannot be started: {complaint}. Log in to it, or leave it out"
        )


def flat_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings as trackers take them: one level, no absent values."""
    flat = {
        f"{group}/{name}": value
        for group, values in settings.items()
        for name, value in (values.items() if isinstance(values, dict) else [("value", values)])
    }
    return {name: v for name, v in flat.items() if isinstance(v, bool | int | float | str)}


def log_attention(accelerator: Accelerator, translations: Sequence[Translation], step: int) -> None:
    """Send attention maps to the trackers, always of the same sentences; on the main process."""
    takers = [t for t in accelerator.trackers if t.name in ("tensorboard", "trackio", "wandb")]
    for number, translation in enumerate(translations, start=1):
        if translation.alignment is None:
            continue
        name, caption = f"attention/{number}", f"{translation.source} → {translation.text}"
        for tracker in accelerator.trackers:
            if isinstance(tracker, VisdomTracker):
                tracker.log_map(name, translation.alignment, caption)
        pixels: Any = _pixels(translation.alignment) if takers else None
        for tracker in takers if pixels is not None else ():
            if tracker.name == "trackio":
                import trackio

                tracker.log({name: trackio.Image(pixels, caption=caption)}, step=step)
            elif tracker.name == "tensorboard":
                tracker.log_images({name: pixels[None]}, step=step, dataformats="NHWC")
            else:
                tracker.log_images({name: [pixels]}, step=step)


def _pixels(alignment: Alignment) -> Any:
    try:
        pixels, missing = alignment_pixels(alignment)
    except InputError:
        warning_once(
            logger,
            "attention maps are not sent to the trackers: drawing them needs "
            "pip install 'bahdanau-hf[plot]'",
        )
        return None
    if missing:
        warning_once(
            logger,
            f"no font on this machine has {missing[:8]!r}: attention maps show boxes for such "
            "characters; install one such as Noto Sans CJK",
        )
    return pixels


class VisdomTracker(GeneralTracker):
    """Draws a run on a visdom server: a window for each number, and the attention maps.

    It speaks the server's own JSON over HTTP, so that no package is needed where the training runs.
    Every message holds its whole window: a server that was started anew is soon complete again.
    A server that goes away does not end the training; it is tried again a minute later. The windows
    belong to the environment `env`, a tab of visdom's page.

    Raises:
        InputError: no server answers.
    """

    name = "visdom"
    requires_logging_directory = False

    def __init__(self, env: str, url: str = VISDOM_URL) -> None:
        self.env = env
        self.tracker = self.url = url.rstrip("/")  # `tracker` is what accelerate hands out
        super().__init__()
        self._traces: dict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self._rests_until = 0.0
        if os.environ.get("RANK", "0") != "0":  # only the first process of all speaks to the server
            return
        try:
            self._post("win_exists", {"win": "settings", "eid": env})
        except (OSError, ValueError) as error:
            raise InputError(
                f"--report_to visdom: no visdom server answers at {self.url} "
                f"({getattr(error, 'reason', error)}): start one, or set VISDOM_URL"
            ) from None

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Write the settings into a window."""
        rows = "".join(
            f"<tr><td>{html.escape(str(key))}</td><td>{html.escape(str(value))}</td></tr>"
            for key, value in values.items()
        )
        text = {"type": "text", "content": f"<table>{rows}</table>"}
        self._draw("settings", [text], {}, "settings")

    def log(self, values: dict[str, Any], step: int | None = None, **kwargs: Any) -> None:
        """Add a point to the line of each number; validation joins the window of training."""
        for key, value in values.items():
            if not isinstance(value, int | float) or not math.isfinite(value):
                continue
            window = key.removeprefix("eval_")
            kind = "validation" if key.startswith("eval_") else "training"
            trace = self._traces[window].setdefault(
                kind, {"type": "scatter", "mode": "lines", "name": kind, "x": [], "y": []}
            )
            trace["x"].append(step or 0)
            trace["y"].append(float(value))
            traces = [*self._traces[window].values()]
            axes = {"xaxis": {"title": "step"}, "showlegend": len(traces) > 1}
            self._draw(window, traces, axes, window)

    def log_map(self, name: str, alignment: Alignment, caption: str) -> None:
        """Draw an attention map; it takes the place of the earlier one of this name."""
        # By number: plotly would join two rows of the same word into one.
        source = [_plotly_text(visible(token)) for token in alignment.source_tokens]
        target = [_plotly_text(visible(token)) for token in alignment.target_tokens]
        weights = alignment.as_dict()["weights"]
        colours = [[0, f"rgb{EMPTY}"], [1, f"rgb{LIGHT_HOT}"]]
        trace = {"type": "heatmap", "z": weights, "zmin": 0, "zmax": 1, "colorscale": colours}
        trace["text"] = [[f"{row} ← {column}" for column in source] for row in target]
        columns, rows = list(range(len(source))), list(range(len(target)))
        axes = {
            "xaxis": {"tickvals": columns, "ticktext": source, "side": "top"},
            "yaxis": {"tickvals": rows, "ticktext": target, "autorange": "reversed"},
        }
        self._draw(name, [trace], axes, caption)

    def _draw(self, window: str, data: list[Any], axes: dict[str, Any], title: str) -> None:
        if time.monotonic() < self._rests_until:
            return
        layout, opts = {"title": _plotly_text(title), **axes}, {"title": title}
        message = {"win": window, "eid": self.env, "data": data, "layout": layout, "opts": opts}
        try:
            self._post("events", message)
        except (OSError, ValueError) as error:
            logger.warning("the visdom server at %s does not answer: %s", self.url, error)
            self._rests_until = time.monotonic() + _REST_SECONDS

    def _post(self, endpoint: str, message: dict[str, Any]) -> None:
        body, headers = json.dumps(message).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/{endpoint}", body, headers)
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as answer:
            answer.read()


def _plotly_text(text: str) -> str:
    """Text that plotly, which knows some HTML, shows as it is."""
    return html.escape(text, quote=False)
