import base64
import hashlib
import html
import json
import math
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bahdanau_hf.errors import InputError
from bahdanau_hf.reporting.run_report import _compared, _duration, write_report
from bahdanau_hf.reporting.wording import SPEAK, say
from tests.helpers.reported_run import ROWS, SCORES, TRAIN_LINES, write_run

JSON_FILES = ["settings.json", "eval_results.json", "alignments.json"]
FILES = [*JSON_FILES, "metrics.jsonl", "test_predictions.tsv"]


class Page(HTMLParser):
    """The report as a reader sees it: text by section; fails on tags that do not nest."""

    void = frozenset({"meta", "br", "wbr"})

    def __init__(self, path):
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.open, self.tags, self.sections, self.text = [], [], {}, ""
        self.heading = ""
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)
        if tag == "section":
            self.heading = ""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if "style" in self.open or "script" in self.open:
            return
        if self.open and self.open[-1] == "h2":
            self.heading = data
            self.sections[data] = ""
        elif self.heading:
            self.sections[self.heading] += data
        self.text += data


def report(folder):
    return Page(write_report(folder))


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "my-run")


class TestWholeReport:
    def test_has_all_sections(self, run):
        path = write_report(run)
        assert path == run / "report.html"
        page = Page(path)
        assert list(page.sections) == [
            "Scores",
            "Learning",
            "Translations",
            "Attention",
            "Settings",
        ]
        assert "my-run" in page.text
        assert "en → zh" in page.text
        assert "not there yet" not in page.text
        assert "nreadable" not in page.text

    def test_needs_no_network_and_runs_nothing(self, run):
        page = report(run)
        tags = {tag for tag, _ in page.tags}
        assert not tags & {
            "link",
            "img",
            "iframe",
            "object",
            "embed",
            "base",
            "form",
        }
        names = {name for _, attrs in page.tags for name in attrs}
        assert not {n for n in names if n.startswith("on") or n in ("src", "srcset")}
        links = [attrs["href"] for tag, attrs in page.tags if tag == "a"]
        headings = [f"#{name}" for name in page.sections]
        assert links == [*headings, "test_predictions.tsv"]  # its own parts, and files beside it
        assert [page.source.count("<script"), page.source.count(f"<script>{SPEAK}</script>")] == [
            1,
            1,
        ]
        assert not re.search(r"https?:|url\(|@import|@font-face", page.source)
        policy = [a["content"] for t, a in page.tags if t == "meta" and "http-equiv" in a]
        own = base64.b64encode(hashlib.sha256(SPEAK.encode()).digest()).decode()
        allowed = f"style-src 'unsafe-inline'; script-src 'sha256-{own}'"
        assert policy == [f"default-src 'none'; {allowed}"]

    def test_serves_dark_pages_and_phones(self, run):
        source = report(run).source
        assert "@media (prefers-color-scheme: dark)" in source
        assert 'content="width=device-width, initial-scale=1"' in source
        assert "@media (max-width:" in source

    def test_is_a_function_of_the_files(self, run):
        first = write_report(run).read_bytes()
        assert write_report(run).read_bytes() == first
        assert sorted(p.name for p in run.iterdir()) == sorted([*FILES, "report.html"])

    def test_scores_come_with_signatures(self, run):
        text = report(run).sections["Scores"]
        shown = ["31.26", "28.50", "18 min 13 s", "9.4 M", "29,871", "61.2 / 40 / 25.5"]
        for value in [*shown, SCORES["bleu_signature"], SCORES["chrf_signature"]]:
            assert value in text

    def test_settings_are_listed_and_the_token_is_not(self, run):
        page = report(run)
        text = page.sections["Settings"]
        for expected in (
            "hidden_size",
            "256",
            "pairs.tsv",
            "0.001",
            "too long",
            "17",
            "2.13.0",
            "yes",
        ):
            assert expected in text
        assert "hf_verysecret" not in page.source
        assert "(hidden)" in text

    def test_confidence_is_drawn_where_it_was_calibrated(self, run, tmp_path):
        assert "Confidence" not in Page(write_report(run)).sections
        part = {
            "ece": 0.0321,
            "confidences": [0.15, 0.55, 0.95],
            "accuracies": [0.1, 0.6, 0.9],
            "counts": [10, 1000, 990],
        }
        broken = {"confidences": [0.1], "accuracies": "<b>", "counts": []}
        found = {"words": part, "sentences": part, "<i>": broken, "other": 3}
        folder = write_run(tmp_path / "calibrated", results={"test": SCORES, "confidence": found})
        page = Page(write_report(folder))
        text = page.sections["Confidence"]
        assert "Expected calibration error: words 0.0321, sentences 0.0321." in text
        assert "words: 2,000" in text
        assert "right 0.6 (stated 0.55)" in page.source
        assert "confidences" not in page.text

    def test_scores_say_of_what_and_how_they_are(self, tmp_path):
        few = {**SCORES, "num_sentences": 12, "num_beams": 5}
        folder = write_run(tmp_path / "few", results={"test": few, "validation": SCORES})
        settings = json.loads((folder / "settings.json").read_text())
        settings["train"] |= {"max_eval_translations": 300, "eval_num_beams": 1}
        (folder / "settings.json").write_text(json.dumps(settings))
        text = Page(write_report(folder)).text
        assert "BLEU, test, 5 beams, only 12 sentences" in text
        assert "BLEU, validation31.26" in text
        assert "Validation scores on the way, greedy, the first 300" in text

    def test_a_run_without_a_test_split_lacks_nothing(self, run):
        results = {"validation": SCORES}
        (run / "eval_results.json").write_text(json.dumps(results))
        (run / "test_predictions.tsv").unlink()
        text = report(run).sections["Translations"]
        assert "no test split" in text
        assert "not there yet" not in text

    def test_nested_settings_are_rows(self, run):
        settings = json.loads((run / "settings.json").read_text())
        settings["dropped"] = {"train": {"empty": 3, "too long": {"source": 4}}}
        (run / "settings.json").write_text(json.dumps(settings))
        text = report(run).sections["Settings"]
        assert "train, empty3" in text
        assert "train, too long, source4" in text
        assert "{" not in text

    def test_maps_come_with_their_sentences(self, tmp_path):
        entry = {
            **{"source_tokens": ["a"], "target_tokens": ["b"], "weights": [[1.0]]},
            **{"source": "Call <us>.", "target": "联系我们。", "reference": "打给我们。"},
        }
        text = report(write_run(tmp_path / "run", alignments=[entry])).sections["Attention"]
        for shown in ("Call <us>.", "联系我们。", "打给我们。"):
            assert shown in text

    def test_attention_maps_are_tables(self, run):
        page = report(run)
        titles = [attrs["title"] for tag, attrs in page.tags if tag == "td" and "title" in attrs]
        assert titles == ["联 ← Call: 0.75", "联 ← us: 0.25"]

    def test_at_most_twelve_maps(self, tmp_path):
        one = {"source_tokens": ["a"], "target_tokens": ["b"], "weights": [[1.0]]}
        page = report(write_run(tmp_path / "run", alignments=[one] * 30))
        assert page.source.count('<div class="alignment">') == 12
        assert "first 12 of 30 maps" in page.sections["Attention"]


class TestTranslations:
    def test_worst_and_best_in_order(self, tmp_path):
        rows = [(f"source{i}", "好", "好", f"{i}.0") for i in range(50)]
        rows += [("short tie", "好", "好", "49.0"), ("long tie", "好好好", "好好好", "49.0")]
        text = report(write_run(tmp_path / "run", rows=rows)).sections["Translations"]
        worst, best = text.split("Best")
        assert re.findall(r"source\d+", worst) == [f"source{i}" for i in range(8)]
        found = re.findall(r"source\d+|long tie|short tie", best)
        assert found[0] == "long tie"
        assert set(found[1:3]) == {"source49", "short tie"}
        assert found[3:] == [f"source{i}" for i in range(48, 43, -1)]
        assert "Spread of 52 sentence scores" in text

    def test_spread_counts_each_sentence_once(self, tmp_path):
        scores = [0, 9.99, 10, 55, 99.9, 100, 100.00000000000004]
        rows = [("s", "r", "h", str(score)) for score in scores]
        page = report(write_run(tmp_path / "run", rows=rows))
        bars = [attrs for tag, attrs in page.tags if tag == "i" and "title" in attrs]
        counts = [2, 1, 0, 0, 0, 1, 0, 0, 0, 3]
        assert [int(bar["title"].split()[-1]) for bar in bars] == counts
        shown = re.findall(r"<i [^>]*><span>(\d+)</span></i>", page.source)
        assert [int(number) for number in shown] == [count for count in counts if count]
        assert bars[9]["style"] == "height:100.0%"

    @pytest.mark.parametrize(
        ("reference", "hypothesis", "expected", "written"),
        [
            ("联系我们。", "联系我们。", "联系我们。", "联系我们。"),
            ("走开！", "走！", "走<u>开</u>！", "走！"),
            ("走！", "你走！", "走！", "<mark>你</mark>走！"),
            ("I like tea.", "I liked tea.", "I <u>like</u> tea.", "I <mark>liked</mark> tea."),
            ("a<b", "a&b", "a<u>&lt;</u>b", "a<mark>&amp;</mark>b"),
            ("他是谁？", "", "<u>他是谁？</u>", f'<span class="quiet">{say("(nothing)")}</span>'),
        ],
    )
    def test_differences(self, reference, hypothesis, expected, written):
        assert _compared(reference, hypothesis) == (expected, written)

    @settings(max_examples=60)
    @given(st.text(max_size=15), st.text(min_size=1, max_size=15))
    def test_differences_change_no_text(self, reference, hypothesis):
        shown = _compared(reference, hypothesis)
        for text, original in zip(shown, (reference, hypothesis), strict=True):
            assert html.unescape(re.sub(r"</?(?:u|mark)>", "", text)) == original
            assert not re.search(r"<(?!/?(?:u|mark)>)", text)


EVIL = "</td><script>alert('x')</script><img src=x onerror=\"alert(1)\">&amp;"


def _poison(value, keys):
    """The same structure with markup in every string, in those that are keys too if asked."""
    if isinstance(value, dict):
        return {f"{key}{EVIL if keys else ''}": _poison(item, keys) for key, item in value.items()}
    if isinstance(value, list):
        return [_poison(item, keys) for item in value]
    return f"{value}{EVIL}" if isinstance(value, str) else value


class TestMarkupInTheFiles:
    @pytest.fixture(params=["values", "keys"])
    def page(self, request, tmp_path):
        rows = [(*(f"{cell}{EVIL}" for cell in row[:3]), row[3]) for row in ROWS]
        folder = write_run(tmp_path / "run<script>alert(2)<", rows=rows)
        for name in JSON_FILES:
            values = json.loads((folder / name).read_text(encoding="utf-8"))
            in_keys = request.param == "keys" and name != "alignments.json"
            poisoned = _poison(values, in_keys)
            # The plain top keys stay, or nothing below them would be looked at.
            values = values | poisoned if in_keys else poisoned
            (folder / name).write_text(json.dumps(values), encoding="utf-8")
        return request.param, report(folder)

    def test_is_shown_and_never_obeyed(self, page):
        _, page = page
        assert "img" not in {tag for tag, _ in page.tags}
        assert page.source.count("<script") == 1, "the page's own"
        assert not {n for _, attrs in page.tags for n in attrs if n.startswith("on") or n == "src"}
        assert page.source.count("<h1") == 1

    def test_in_names_of_splits_scores_and_files(self, tmp_path):
        results = {EVIL: {**SCORES, f"{EVIL}_signature": "s"}}
        folder = write_run(tmp_path / "run<img src=x>", results=results)
        (folder / "metrics.jsonl").unlink()
        (folder / "metrics.jsonl").mkdir()
        page = report(folder)
        assert "img" not in {tag for tag, _ in page.tags}
        assert page.source.count("<script") == 1, "the page's own"
        assert page.sections["Scores"].count(EVIL) == 4
        assert "run<img src=x>/metrics.jsonl" in page.sections["Learning"]

    def test_every_field_still_says_what_it_held(self, page):
        kind, page = page
        for row in ROWS:
            for cell in row[:3]:
                assert f"{cell}{EVIL}" in page.sections["Translations"]
        for token in ("Call", "us", "联"):
            assert f"{token}{EVIL}" in page.sections["Attention"]
        if kind == "values":
            for value in ("pairs.tsv", "en", "2.13.0"):
                assert f"{value}{EVIL}" in page.sections["Settings"]
            assert f"{SCORES['bleu_signature']}{EVIL}" in page.sections["Scores"]
            assert next(a["lang"] for t, a in page.tags if t == "dd") == f"en{EVIL}"
        else:
            for key in ("hidden_size", "too long", "torch", "dropped", "num_parameters"):
                assert f"{key}{EVIL}" in page.sections["Settings"]
            assert f"test{EVIL}" in page.sections["Scores"]
        assert "<script>alert(2)<" in page.text


class TestMissingAndBroken:
    def test_empty_folder(self, tmp_path):
        page = report(tmp_path)
        sections = ["Settings", "Scores", "Attention", "Learning", "Translations"]
        for name, section in zip(FILES, sections, strict=True):
            assert page.sections[section].strip() == f"{name} is not there yet."

    @pytest.mark.parametrize("name", FILES)
    def test_one_missing_file_spoils_one_section(self, run, name):
        whole = report(run)
        (run / name).unlink()
        page = report(run)
        assert page.text.count(f"{name} is not there yet.") == 1
        assert page.text.count("is not there yet.") == 1
        same = [s for s in page.sections if page.sections[s] == whole.sections[s]]
        # Without the settings the tiles among the scores lack the sizes, too.
        assert len(same) == (3 if name == "settings.json" else 4)

    @pytest.mark.parametrize("name", JSON_FILES)
    @pytest.mark.parametrize("content", [b'{"a": ', b"\xff\xfe", b"3", b'"text"'])
    def test_broken_json(self, run, name, content):
        (run / name).write_bytes(content)
        page = report(run)
        assert page.text.count(f"cannot read {name}: ") == 1
        assert page.text.count("cannot read") == 1

    def test_odd_but_valid_json(self, run):
        (run / "settings.json").write_text('{"model": 3, "data": null, "num_pairs": [1, "x"]}')
        (run / "eval_results.json").write_text('{"test": {"bleu": null, "chrf": "?"}, "x": NaN}')
        (run / "alignments.json").write_text('[3, {"weights": []}, null]')
        page = report(run)
        assert "Unreadable maps: 3." in page.sections["Attention"]
        assert "nan" in page.sections["Scores"]

    @pytest.mark.parametrize(
        ("name", "content"),
        [("settings.json", "{}"), ("eval_results.json", "{}"), ("alignments.json", "[]")],
    )
    def test_empty_json(self, run, name, content):
        (run / name).write_text(content)
        assert report(run).text.count(f"{name} is empty.") == 1

    def test_a_log_cut_short_keeps_its_whole_lines(self, run):
        whole = report(run).source
        with (run / "metrics.jsonl").open("a") as log:
            log.write('\n[1]\n{"loss": 3}\n{"step": 110, "lo')
        page = report(run)
        assert "Unreadable lines in metrics.jsonl: 3." in page.sections["Learning"]
        charts = re.findall(r"<polyline[^>]*>", page.source)
        assert charts == re.findall(r"<polyline[^>]*>", whole)

    def test_a_log_with_nan_draws_the_finite_steps(self, tmp_path):
        lines = [*TRAIN_LINES, {"step": 110, "loss": math.nan}, {"step": 120, "loss": math.inf}]
        page = report(write_run(tmp_path / "run", metrics=lines))
        drawn = re.findall(r'points="([^"]*)"', page.source)
        assert len(drawn[0].split()) == 10
        assert "nan" not in "".join(drawn)

    def test_a_log_without_steps(self, tmp_path):
        page = report(write_run(tmp_path / "run", metrics=[]))
        assert page.sections["Learning"].strip() == "metrics.jsonl holds no steps yet."

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("", "its first line must be source, reference, hypothesis, sentence_bleu"),
            ("a\tb\n", "its first line must be"),
            ("source\treference\thypothesis\tsentence_bleu\n", "holds no translations yet"),
            (
                "source\treference\thypothesis\tsentence_bleu\na\tb\n",
                "Unreadable lines in test_predictions.tsv: 1.",
            ),
        ],
    )
    def test_broken_translations(self, run, content, message):
        (run / "test_predictions.tsv").write_text(content)
        assert message in report(run).sections["Translations"]

    def test_bad_lines_among_translations(self, run):
        with (run / "test_predictions.tsv").open("a", encoding="utf-8") as table:
            table.write("a\tb\tc\tmany\na\tb\tc\tnan\na\tb\tc\t1\t2\n")
        text = report(run).sections["Translations"]
        assert "Unreadable lines in test_predictions.tsv: 3." in text
        assert "Spread of 3 sentence scores" in text

    def test_no_folder_and_unwritable(self, run):
        with pytest.raises(InputError, match="is not a folder"):
            write_report(run / "absent")
        (run / "report.html").mkdir()
        with pytest.raises(InputError, match=r"cannot write .*report\.html"):
            write_report(run)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.14159, "3.1 s"), (59.7, "1 min 0 s"), (1093.2, "18 min 13 s"), (7322, "2 h 2 min")],
)
def test_duration(seconds, text):
    assert _duration(seconds) == text
