"""Watching a run: what trackers are sent, when a run refuses to start, the report on the way."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from bahdanau_hf import InputError
from bahdanau_hf.alignment.record import Alignment
from bahdanau_hf.reporting.attention_plot import alignment_pixels
from bahdanau_hf.training import loop as training
from bahdanau_hf.training import trackers
from bahdanau_hf.training.loop import NUM_WATCHED
from bahdanau_hf.training.run import Run
from bahdanau_hf.training.trackers import VisdomTracker, choose_trackers, start_trackers
from tests.helpers.places import ROOT
from tests.helpers.tiny_run import flags, logged, prepare, train_script

SETTINGS = {"train": {"seed": 3, "name": None, "note": "<b>"}, "num_parameters": 7}
MAP = Alignment(["<i>a</i>", "a", "a"], ["爱", "爱"], [[0.25, 0.25, 0.5], [0, 0, 1]])


class VisdomServer(ThreadingHTTPServer):
    """As much of visdom's server as a tracker needs: it keeps each window's last message."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Windows)
        self.windows: dict[tuple[str, str], dict[str, Any]] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Windows(BaseHTTPRequestHandler):
    server: VisdomServer

    def do_POST(self) -> None:
        message = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(self.path)
        answer = "false"
        if self.path == "/events":
            # What the real server reads of a message; a missing key is its error 500.
            kind = message["data"][0]["type"]
            content = message["data"][0]["content"] if kind == "text" else message["layout"]
            assert content is not None
            self.server.windows[message["eid"], message["win"]] = message
            answer = message["win"]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *values: Any) -> None:
        pass


@pytest.fixture
def visdom(monkeypatch: pytest.MonkeyPatch) -> Iterator[VisdomServer]:
    with VisdomServer() as server:
        monkeypatch.setenv("VISDOM_URL", server.url)
        Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def points(message: dict[str, Any]) -> dict[str, list[tuple[int, float]]]:
    return {t["name"]: list(zip(t["x"], t["y"], strict=True)) for t in message["data"]}


class TestVisdom:
    def test_a_run_is_drawn_whole(self, visdom: VisdomServer, tmp_path: Path) -> None:
        output_dir = tmp_path / "mine"
        run = prepare(output_dir, report_to="visdom", eval_steps=2)
        start_trackers(run.accelerator, output_dir, SETTINGS, 0)
        run.train()
        lines = logged(output_dir)
        windows = {window: message for (env, window), message in visdom.windows.items()}
        assert {env for env, _ in visdom.windows} == {"mine"}
        assert points(windows["loss"]) == {
            "training": [(n["step"], n["loss"]) for n in lines if "loss" in n],
            "validation": [(n["step"], n["eval_loss"]) for n in lines if "eval_loss" in n],
        }
        assert [x for x, _ in points(windows["bleu"])["validation"]] == [2, 4]
        shown = [windows[f"attention/{i}"]["data"][0] for i in range(1, NUM_WATCHED + 1)]
        assert all(trace["type"] == "heatmap" for trace in shown)
        # The report of the run shows the same maps.
        kept = json.loads((output_dir / "alignments.json").read_text(encoding="utf-8"))
        assert [trace["z"] for trace in shown] == [entry["weights"] for entry in kept]
        assert "<td>train/note</td><td>&lt;b&gt;</td>" in windows["settings"]["data"][0]["content"]

    def test_words_that_repeat_keep_their_columns(self, visdom: VisdomServer) -> None:
        VisdomTracker("mine", visdom.url).log_map("attention/1", MAP, "a < b")
        message = visdom.windows["mine", "attention/1"]
        axes = message["layout"]
        assert axes["xaxis"]["ticktext"] == ["&lt;i&gt;a&lt;/i&gt;", "a", "a"]
        assert axes["xaxis"]["tickvals"] == [0, 1, 2]
        assert axes["yaxis"]["autorange"] == "reversed"
        assert (axes["title"], message["opts"]["title"]) == ("a &lt; b", "a < b")
        np.testing.assert_allclose(message["data"][0]["z"], MAP.weights)

    def test_no_server_stops_the_run_before_it_starts(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        monkeypatch.setenv("VISDOM_URL", "http://127.0.0.1:9")
        assert train_script(tmp_path / "none", report_to="visdom") == 2
        error = capsys.readouterr().err
        assert "no visdom server answers at http://127.0.0.1:9" in error
        assert not (tmp_path / "none").exists()

    def test_a_server_that_goes_away_does_not_end_the_run(
        self, visdom: VisdomServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        [tracker] = choose_trackers("visdom", "mine")
        assert isinstance(tracker, VisdomTracker)
        assert visdom.asked == ["/win_exists"]
        visdom.shutdown()
        visdom.server_close()
        for step in range(5):
            tracker.log({"loss": 1.0}, step=step)
        assert [r.levelname for r in caplog.records] == ["WARNING"]


class TestChoice:
    def test_names(self) -> None:
        assert choose_trackers("none", "mine") == choose_trackers("", "mine") == []
        with pytest.raises(InputError, match=r"abacus: choose among .*tensorboard.*visdom, none"):
            choose_trackers("abacus", "mine")

    @pytest.mark.parametrize(
        ("name", "package"),
        [
            ("trackio", r"'bahdanau-hf\[trackers\]'"),
            ("tensorboard", "trackers"),
            ("wandb", "wandb"),
        ],
    )
    def test_what_is_not_installed_is_named(
        self, monkeypatch: pytest.MonkeyPatch, name: str, package: str
    ) -> None:
        monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(
            InputError, match=f"{name}: it is not installed; pip install.*{package}"
        ):
            choose_trackers(name, "mine")

    def test_settings_become_flat(self) -> None:
        assert trackers.flat_settings(SETTINGS) == {
            "train/seed": 3,
            "train/note": "<b>",
            "num_parameters/value": 7,
        }


class Recorder:
    """A tracker that keeps what it is sent; `images` as `log_images` gets them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent: list[dict[str, Any]] = []

    def log(self, values: dict[str, Any], **options: Any) -> None:
        self.sent.append({**values, **options})

    log_images = log


def test_pictures_in_the_form_that_each_tracker_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(training, "NUM_WATCHED", 1)
    run = prepare(tmp_path / "mine", eval_steps=2)
    run.accelerator.trackers = [Recorder("tensorboard"), Recorder("wandb"), Recorder("clearml")]
    run.train()
    board, wandb, other = (
        [sent for sent in tracker.sent if "attention/1" in sent]
        for tracker in run.accelerator.trackers
    )
    assert [sent["step"] for sent in board] == [sent["step"] for sent in wandb] == [2, 4]
    assert other == [], "in which form it takes pictures was not tried"
    assert {sent["dataformats"] for sent in board} == {"NHWC"}
    for sent, same in zip(board, wandb, strict=True):
        one, height, width, colours = sent["attention/1"].shape
        assert (one, colours) == (1, 3)
        assert min(height, width) > 100
        assert same["attention/1"][0].shape == (height, width, 3)


def test_pixels_are_darkest_where_the_weight_is() -> None:
    pytest.importorskip("matplotlib")
    sharp = Alignment(["a", "b"], ["c", "d"], [[0, 1], [0, 1]])
    pixels, missing = alignment_pixels(sharp)
    assert missing == ""
    assert pixels.dtype == np.uint8
    hot = (abs(pixels.astype(int) - [12, 64, 144]).sum(axis=2) < 9).nonzero()
    cold = (abs(pixels.astype(int) - [238, 242, 249]).sum(axis=2) < 3).nonzero()
    assert cold[1].size > 1000
    assert np.median(hot[1]) > np.median(cold[1])


def test_without_attention_there_is_nothing_to_show(tmp_path: Path) -> None:
    changes = {"use_attention": False, "attention_dropout": 0}
    run = prepare(tmp_path / "plain", **changes, max_train_steps=1)
    run.train()
    assert not (tmp_path / "plain" / "alignments.json").exists()


def test_the_report_is_there_before_the_first_validation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(run: Any) -> dict[str, float]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Run, "measure", stop)
    run = prepare(tmp_path / "short")
    with pytest.raises(KeyboardInterrupt):
        run.train()
    report = (tmp_path / "short" / "report.html").read_text(encoding="utf-8")
    assert 'aria-label="Loss' in report


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tensorboard", "trackio"])
def test_the_real_thing(name: str, tmp_path: Path) -> None:
    pytest.importorskip(name)
    output_dir = tmp_path / "mine"
    changes = {"report_to": name, "eval_steps": 2, "skip_test": True}
    # trackio looks at its variable once, when it is imported.
    subprocess.run(
        [sys.executable, ROOT / "scripts" / "train.py", *flags(output_dir, **changes)],
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")},
        check=True,
        timeout=300,
    )
    lines = [line for line in logged(output_dir) if "eval_loss" in line]
    if name == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        board = EventAccumulator(str(output_dir / trackers.PROJECT)).Reload()
        found = [(event.step, event.value) for event in board.Scalars("eval_loss")]
        assert found == [(n["step"], pytest.approx(n["eval_loss"])) for n in lines]
        assert {f"attention/{i}" for i in range(1, NUM_WATCHED + 1)} <= set(board.Tags()["images"])
    else:
        assert len(list((tmp_path / "trackio" / "media").rglob("*.png"))) == 2 * NUM_WATCHED
