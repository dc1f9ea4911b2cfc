"""The benchmarks measure what they say: the same mathematics on both sides, and honest numbers."""

import copy
import functools
import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model

from bahdanau_hf.modeling import matmul_bahdanau, recurrence_bahdanau
from bahdanau_hf.modeling.modeling_bahdanau import implementations
from bahdanau_hf.modeling.processor_bahdanau import processor
from benchmarks import (
    ctranslate2_peer,
    engines,
    gpu_recurrence,
    gpu_report,
    gpu_speed,
    lasting_memory,
    memory,
    never_slower,
    older_processor,
    results,
    suite,
)
from benchmarks.contenders import (
    copy_weights_back,
    counterparts,
    make_marian,
    make_ours,
    make_plain,
)
from benchmarks.decoding_speed import fix_lengths, one_by_one
from benchmarks.equality import Check, losses_and_gradients
from benchmarks.machine import describe_machine, machine_text
from benchmarks.memory import Size, in_own_process
from benchmarks.picture import draw
from benchmarks.readme_tables import tables, update_readme
from benchmarks.stopwatch import Contender, Timing, growth, race
from benchmarks.training_speed import Training, multiplications
from benchmarks.workload import (
    EOS,
    bucketed_batches,
    even_batch,
    random_batch,
    sentence_lengths,
)

ROOT = Path(__file__).parents[2]
WIDTHS = {"embedding_size": 11, "hidden_size": 17, "target_size": 50}


# The same model twice


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_weights_correspond_one_to_one(num_layers) -> None:
    plain = make_plain(**WIDTHS, num_layers=num_layers)
    ours = make_ours(plain)
    pairs = list(counterparts(plain, ours))
    assert {id(own) for _, own in pairs} == {id(p) for p in ours.parameters()}
    assert {id(theirs) for theirs, _ in pairs} == {id(p) for p in plain.parameters()}
    assert len(pairs) == len(list(plain.parameters()))
    assert all(torch.equal(theirs, own) for theirs, own in pairs)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.normal_()
    copy_weights_back(ours, plain)
    assert all(torch.equal(theirs, own) for theirs, own in pairs)


def test_the_plain_loop_translates_as_ours() -> None:
    plain = make_plain(**WIDTHS, num_layers=2).double().eval()
    with torch.no_grad():
        plain.output.weight.mul_(5)
        plain.output.bias[EOS] += 1
    ours = make_ours(plain).double().eval()
    copy_all(plain, ours)
    batch = random_batch(*sentence_lengths(20, 3), 3, target_size=50)
    output = ours.generate(batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=9)
    lengths = set()
    for row, source, length in zip(
        output[:, 1:].tolist(), batch.input_ids.tolist(), batch.source_lengths, strict=True
    ):
        words = plain.translate(source[:length], 1, EOS, 9)
        assert row[: len(words)] == words
        assert not any(row[len(words) + 1 :])
        lengths.add(len(words))
    assert len(lengths) > 2, "sentences must end at different steps for this to count"


def copy_all(plain: torch.nn.Module, ours: torch.nn.Module) -> None:
    with torch.no_grad():
        for theirs, own in counterparts(plain, ours):
            own.copy_(theirs)


def test_a_wrong_gradient_is_noticed() -> None:
    """Of a single small parameter; the others are right."""
    batch = random_batch(*sentence_lengths(6, 1), 1, target_size=50)
    plain = make_plain(**WIDTHS).double()
    ours = make_ours(plain, encoder_reads_padding=True).double()
    copy_all(plain, ours)
    assert max(losses_and_gradients(plain, ours, batch)) < 1e-9
    for model in (plain, ours):
        model.zero_grad()
    score = ours.model.decoder.attention.score.weight
    score.register_hook(lambda grad: grad * 1.001)
    loss, gradient = losses_and_gradients(plain, ours, batch)
    assert loss < 1e-12
    assert gradient == pytest.approx(0.001)


def test_marian_is_as_large() -> None:
    size = make_ours(make_plain()).num_parameters()
    assert make_marian(size).num_parameters() == pytest.approx(size, rel=0.01)


def test_multiplications_are_those_of_a_step(monkeypatch) -> None:
    """Counted by hand, and as they happen."""
    batch = even_batch(3, 5, 7)
    done = 0
    product = matmul_bahdanau.multiply

    def count(x, weight, bias=None):
        nonlocal done
        done += x.numel() * weight.shape[0]
        return product(x, weight, bias)

    for module in (matmul_bahdanau, recurrence_bahdanau):
        monkeypatch.setattr(module, "multiply", count)
    monkeypatch.setattr(matmul_bahdanau, "SMALLEST", 1)
    Training(make_ours(make_plain()), [batch]).backward(batch)
    assert done == multiplications([batch])


def test_no_end_means_no_end() -> None:
    marian = make_marian(6_000_000).eval()
    fix_lengths(marian)
    for beams in (1, 2):
        output = marian.generate(torch.tensor([[5, 6, 2]]), max_new_tokens=7, num_beams=beams)
        assert output.shape == (1, 8)


@pytest.mark.parametrize("beams", [1, 5])
def test_ctranslate2_translates_as_the_model_it_was_made_from(beams, tmp_path) -> None:
    pytest.importorskip("ctranslate2")
    marian = make_marian(6_000_000).eval()
    ctranslate2_peer.sharpen(marian)
    fix_lengths(marian)
    batch = random_batch(*sentence_lengths(16, 3), 3)
    different = ctranslate2_peer.different_translations(marian, tmp_path, batch, beams, 11)
    assert different == 0
    translator = ctranslate2_peer.load(tmp_path)
    found = ctranslate2_peer.translate(translator, ctranslate2_peer.written(batch), beams, 11)
    assert {len(words) for words in found} == {11}
    assert len(set(map(tuple, found))) > 5, "the source must matter for this to count"
    assert any(len(set(words)) > 1 for words in found), "so must the words before"


def test_steps_of_the_plain_loop(monkeypatch) -> None:
    """Padded, it takes as many steps as the translation has words, whatever it says."""
    plain, calls = make_plain(**WIDTHS), []
    monkeypatch.setattr(plain, "translate", lambda *args: calls.append(args))
    contender = one_by_one(plain, [[5, 2], [6, 7, 2]], [[9, 2], [8, 8, 8, 2]], padded=True)
    contender.run()
    assert contender.amount == 2
    assert [len(source) for source, *_ in calls] == [30, 30]
    assert [call[1:] for call in calls] == [(1, -1, 2), (1, -1, 4)]


# Sentences


def test_lengths_are_everyday_ones() -> None:
    source, target = sentence_lengths(20_000, 5)
    assert source.mean() == pytest.approx(7, abs=0.1)
    assert target.mean() == pytest.approx(11, abs=0.1)
    assert np.percentile(source, 95) == 11
    assert np.percentile(target, 95) == 17
    assert np.corrcoef(source, target)[0, 1] > 0.8


def test_batches() -> None:
    batches = bucketed_batches(3)
    sizes = [batch.num_target_tokens for batch in batches]
    assert sizes == sorted(sizes)
    for batch in batches:
        assert batch.input_ids.shape == batch.attention_mask.shape
        ends = batch.input_ids.gather(1, batch.source_lengths[:, None] - 1)
        assert (ends == EOS).all()
        assert not batch.input_ids[batch.attention_mask == 0].any()
        padded = batch.padded(30)
        assert padded.input_ids.shape == padded.labels.shape == (64, 30)
        assert padded.num_target_tokens == batch.num_target_tokens
        assert torch.equal(padded.source_lengths, batch.source_lengths)
    again = bucketed_batches(3)
    assert all(torch.equal(a.labels, b.labels) for a, b in zip(batches, again, strict=True))


# Numbers


def test_a_race_takes_turns() -> None:
    runs: list[str] = []
    contenders = {
        name: Contender(lambda name=name: runs.append(name), 10.0) for name in ("a", "b", "c")
    }
    timings = race(contenders, rounds=3, least_seconds=0)
    assert "".join(runs) == "abc" + "abc" + "bca" + "cab"
    assert all(len(timing.seconds) == 3 for timing in timings.values())


def test_timings() -> None:
    slow, fast = Timing([2.0, 4.0, 3.0], 12), Timing([1.0, 1.0, 3.0], 24)
    assert slow.rate == 4
    assert slow.spread == (3, 6)
    assert fast.times_as_fast_as(slow) == 4  # of 4, 8 and 2
    assert slow.times_as_fast_as(fast) == 0.25


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_growth(power) -> None:
    sizes = [10.0, 20.0, 40.0]
    assert growth(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)


@pytest.mark.parametrize(
    ("wanted", "measured", "at_most", "reached"),
    [(2, 2.1, False, True), (2, 1.9, False, False), (2, 1.9, True, True), (2, 2.1, True, False)]
    + [(2, math.nan, at_most, False) for at_most in (True, False)],
)
def test_goals(wanted, measured, at_most, reached) -> None:
    goal = results.Goal("ours / plain", wanted, measured, at_most)
    assert goal.reached is reached
    text = results.goals_text([goal])
    assert ("NOT REACHED" in text) is not reached
    assert "ours / plain" in text


@pytest.mark.parametrize(("error", "passed"), [(0, True), (1, True), (2, False), (math.nan, False)])
def test_checks(error, passed) -> None:
    assert Check("a statement", error, 1).passed is passed


def test_a_section_as_text_and_as_json() -> None:
    section = results.Section("Title", "Notes.")
    section.add_race({"ours": Timing([0.5, 1.0], 1234.5678)}, "words/CPU s")
    section.add_seconds("start", Timing([0.5, 0.25], 1))
    section.goals.append(results.Goal("goal", 1, 2.34567))
    text = section.text()
    assert "ours       1,646 words/CPU s  (1,235 to 2,469)" in text
    assert "start      0.375 CPU s  (0.25 to 0.5)" in text
    data = json.loads(json.dumps(section.as_dict()))
    assert data["rows"][0] == {
        "name": "ours", "value": 1646.0, "unit": "words/CPU s", "low": 1235.0, "high": 2469.0,
    }  # fmt: skip
    assert data["goals"][0]["measured"] == 2.346
    assert data["goals"][0]["reached"] is True


def test_tables_of_the_readme(tmp_path) -> None:
    """They replace what stood there, and nothing else."""
    section = results.Section("Title", "Notes.", goals=[results.Goal("a goal", 2, 3)])
    section.add_race({"ours": Timing([0.5, 1.0], 1234.5678)}, "words/CPU s")
    result = {"machine": describe_machine(), "sections": {"training": section.as_dict()}}
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- results: begin -->\nold\n<!-- results: end -->\nafter\n")
    update_readme(readme, result)
    text = readme.read_text(encoding="utf-8")
    assert text.startswith("before\n<!-- results: begin -->\n")
    assert text.endswith("\n<!-- results: end -->\nafter\n")
    assert "old" not in text
    assert "| a goal | ≥ 2 | 3.00 | reached |" in text
    assert "| ours | 1,646 words/CPU s | 1,235 to 2,469 |" in text
    update_readme(readme, result)
    assert readme.read_text(encoding="utf-8") == text
    readme.write_text("no marks")
    with pytest.raises(ValueError, match="once each"):
        update_readme(readme, result)


def test_the_page_of_speed_shows_the_results_that_are_kept(tmp_path) -> None:
    kept = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
    result = (ROOT / "benchmarks" / "results" / "full.json").read_text(encoding="utf-8")
    page = tmp_path / "README.md"
    page.write_text(kept, encoding="utf-8")
    update_readme(page, json.loads(result))
    assert page.read_text(encoding="utf-8") == kept


def test_a_table_of_ratios() -> None:
    table = results.Table(
        "fast / loop", 1, ["linear", "deep"], {"greedy": [2, 0.5], "beams": [1, None]}
    )
    goals = table.goals()
    assert [goal.measured for goal in goals] == [2, 0.5, 1]
    assert goals[1].name == "fast / loop: greedy, deep"
    assert [goal.reached for goal in goals] == [True, False, True]
    text = results.goals_text([*goals, results.Goal("another", 1, 2)])
    assert "greedy, deep" in text
    assert "another" in text
    assert "greedy, linear" not in text, "what is reached stands in the table"
    assert "0.50*" in table.text()
    assert "2.00*" not in table.text()
    section = results.Section("Never slower", "Notes.", goals=goals, tables=[table])
    markdown = tables({"machine": describe_machine(), "sections": {"x": section.as_dict()}})
    assert "| fast / loop | linear | deep |\n| --- | ---: | ---: |" in markdown
    assert "| greedy | 2.00 | **0.50** |" in markdown
    assert "| beams | 1.00 |  |" in markdown
    line = "| Never slower: 2 of 3 ratios, the lowest | ≥ 1 | 0.50 | **not reached** |"
    assert line in markdown
    assert "| fast / loop: greedy" not in markdown


def test_results_of_another_process_are_added() -> None:
    there = results.Section("Title", "Notes.", tables=[results.Table("t", 1, ["c"], {"r": [2]})])
    there.rows.append(results.Row("ours", 3, "words/CPU s", 2, 4))
    there.goals = [results.Goal("a goal", 1, 2, at_most=True), *there.tables[0].goals()]
    section = results.Section("Title", "Notes.")
    section.add_from(json.loads(json.dumps(there.as_dict())), " (older)")
    assert section.rows == [results.Row("ours (older)", 3, "words/CPU s", 2, 4)]
    assert section.tables == [results.Table("t (older)", 1, ["c"], {"r": [2]})]
    assert [goal.name for goal in section.goals] == ["a goal (older)", "t: r, c (older)"]
    assert [goal.reached for goal in section.goals] == [False, True]
    assert [goal.tabled for goal in section.goals] == [False, True]


# Never slower, engines, and an older processor


def fake_race(contenders, rounds=1, least_seconds=0.0):
    """The library's loop takes 6 s, number formats take 2, 3 and 1; nothing is run."""
    seconds = {"bfloat16": 3.0, "int8": 1.0}
    return {
        name: Timing([6.0 if name.startswith("loop") else seconds.get(name, 2.0)], contender.amount)
        for name, contender in contenders.items()
    }


def test_each_number_format_against_its_loop(monkeypatch) -> None:
    monkeypatch.setattr(never_slower, "race", fake_race)

    def fail() -> None:
        raise RuntimeError("no such product here\nat all")

    works = Contender(lambda: None, 10)
    contenders = {
        f"{loop}{name}": works for loop in ("loop, ", "") for name in ("float32", "bfloat16")
    }
    contenders["int8"] = works
    assert never_slower._race(contenders, True) == {"float32": 3, "bfloat16": 2, "int8": 6}
    contenders["int8"] = Contender(fail, 10)
    assert never_slower._race(contenders, True)["int8"] == 0
    contenders["loop, bfloat16"] = Contender(fail, 10)
    assert never_slower._race(contenders, True) == {"float32": 3, "bfloat16": 0, "int8": 0}


def test_what_is_close_is_measured_again(monkeypatch) -> None:
    calls = []

    def race_twice(contenders, rounds, least_seconds):
        calls.append(set(contenders))
        fast = 1.05 if len(calls) == 1 else 0.9
        return {
            name: Timing([{"loop, float32": 1.0, "int8": 0.2}.get(name, fast)], 1)
            for name in contenders
        }

    monkeypatch.setattr(never_slower, "race", race_twice)
    works = Contender(lambda: None, 1)
    found = never_slower._race(dict.fromkeys(("loop, float32", "float32", "int8"), works), False)
    assert calls[1:] == [{"loop, float32", "float32"}]
    assert found == pytest.approx({"float32": 1 / 0.9, "int8": 5})


def test_every_case_has_its_ratio(monkeypatch, tmp_path) -> None:
    """Without timing, and without the models' having learnt anything."""
    monkeypatch.setattr(never_slower, "race", fake_race)
    monkeypatch.setattr(never_slower, "_runs", lambda name, contender: True)
    for readout in never_slower.READOUTS:
        save_model(never_slower._make(readout), tmp_path / f"{readout}.safetensors")
    section = never_slower.measure_here(False, tmp_path)
    decoding, training = section.tables
    formats = {"float32": 3, "bfloat16": 2} | ({"int8": 6} if processor().int8 else {})
    assert decoding.columns == ["linear, trained", "linear, flat", "deep, trained", "deep, flat"]
    assert decoding.rows == {
        f"{mode}, batch {size}, {name}": [ratio] * 4
        for mode in ("greedy", "5 beams")
        for size in (1, 8, 64)
        for name, ratio in formats.items()
    }
    assert training.rows == {"a batch": [3, 2]}
    assert len(section.goals) == 4 * len(decoding.rows) + 2


def test_the_loop_it_is_compared_with_is_the_librarys(monkeypatch) -> None:
    calls = []
    models = never_slower._models("linear", "flat", Path())
    for name, model in models.items():
        monkeypatch.setattr(
            model,
            "_sample",
            lambda *a, name=name, ask=model._sample, **k: calls.append(name) or ask(*a, **k),
        )
    assert [model.implementation for model in models.values()][:2] == ["reference"] * 2
    assert {model.implementation for model in list(models.values())[2:]} == {None}
    outputs = [
        models[name].generate(torch.tensor([[5, 6, 2]]), max_new_tokens=4)
        for name in ("loop, float32", "float32")
    ]
    assert torch.equal(*outputs)
    assert outputs[0].shape == (1, 5), "no word may end it"


@pytest.mark.slow
def test_engines_race_case_by_case(monkeypatch, tmp_path) -> None:
    pytest.importorskip("ctranslate2")
    monkeypatch.setattr(engines, "race", lambda contenders, *_: {
        name: Timing([2.0 if name.startswith("CTranslate2") else 1.0], contender.amount)
        for name, contender in contenders.items()
    })  # fmt: skip
    save_file(make_ours(make_plain()).state_dict(), tmp_path / engines.TRAINED)
    section = engines.measure_here(False, tmp_path)
    assert {goal.measured for goal in section.goals} == {2}
    formats = {"float32", *["int8"] * processor().int8}
    one_graph = [goal for goal in section.goals if "one graph" in goal.name]
    assert len(one_graph) == 4, "single sentences, both searches, in both formats"
    assert len(section.goals) - len(one_graph) == 4 * len(formats)
    assert {row.name for row in section.rows} >= {
        "ours, 5 beams, batch 1, float32",
        "ours, trained, greedy, batch 64, float32",
        "CTranslate2, greedy, batch 1, int8",
    }
    assert section.rows[0].value == 64


@pytest.mark.skipif(not older_processor.is_newer(), reason="this processor is an older one")
def test_a_process_as_on_an_older_processor() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from benchmarks.older_processor import *; print(describe())"],
        cwd=ROOT,
        env=os.environ | older_processor.OLDER,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("AVX2 (")
    assert not set(done.stdout.strip()[6:-1].split(", ")) & {"bfloat16", "vnni"}


# Memory that stays


def test_batches_are_those_of_base_yaml() -> None:
    config = lasting_memory.base_config()
    assert (config.embedding_size, config.hidden_size, config.vocab_size) == (256, 384, 8000)
    assert config.readout == "deep"
    assert config.tie_word_embeddings
    batches = list(itertools.islice(lasting_memory.batches_of_any_shape(), 40))
    shapes = {(*batch.input_ids.shape, batch.labels.shape[1]) for batch in batches}
    assert len(shapes) > 30, "hardly two are of the same shape"
    sizes = [max(batch.input_ids.numel(), batch.labels.numel()) for batch in batches]
    assert 1000 < np.median(sizes) <= max(sizes) <= 1500
    assert 1200 < lasting_memory.base_batch().labels.numel() <= 1500


# In a process of its own: what a test before has left would be used again, unseen.
KEPT_FOR_EVERY_STEP = """
import torch
from benchmarks import lasting_memory
from benchmarks.training_speed import Training

small = lasting_memory.base_config(vocab_size=50, embedding_size=8, hidden_size=8)
lasting_memory.base_config = lambda: small
kept = []
Training.__call__ = lambda self: None
held = lasting_memory.train(6, [2, 6])
assert held[6] - held[2] < 40, held
# 36 MB each: more than an allocator serves from what was freed before.
Training.__call__ = lambda self: kept.append(torch.ones(9 * 2**20))
held = lasting_memory.train(6, [2, 6])
assert 120 < held[6] - held[2] < 190, held
print(f"told {held[6]:.0f}")
"""


@pytest.mark.slow
def test_what_is_kept_for_every_step_is_seen() -> None:
    """Of a step that does nothing else."""
    done = subprocess.run(
        [sys.executable, "-c", KEPT_FOR_EVERY_STEP], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    *_, told = done.stdout.split()
    assert f"step 6: {told} MB" in done.stdout


@pytest.mark.parametrize(("grows", "reached"), [(1, True), (2, False)])
def test_goals_of_memory_that_stays(monkeypatch, grows, reached) -> None:
    commands = []

    def answer(arguments):
        commands.append(arguments)
        marks = list(map(int, arguments[3:]))
        return {str(mark): 600.0 * (grows if mark == marks[-1] else 1) for mark in marks}

    monkeypatch.setattr(memory, "_run_alone", answer)
    section = results.Section("Memory", "Notes.")
    memory._add_what_stays(section, quick=False)
    assert ["shapes", "2000", "float32", "50", "100", "200", "500", "1000", "2000"] in commands
    assert gpu_speed.LOOP not in implementations()
    names = [goal.name for goal in section.goals]
    assert "memory: training, float32 is flat, 2000 / 200 steps" in names
    assert "memory: translating, float32, MB after 10000 sentences" in names
    assert {goal.reached for goal in section.goals} == {reached}
    assert results.Row("training, float32, after 500 steps", 600, "MB") in section.rows


def test_the_machine_is_named() -> None:
    machine = describe_machine()
    json.dumps(machine)
    assert machine["versions"]["torch"] == version("torch")
    assert machine["cores"] >= 1
    assert machine["processor"] in machine_text(machine)


def test_the_picture(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    curves = [
        results.Curve(panel, axis, name, [1, 4], [10.0, 30.0])
        for panel in ("training", "decoding")
        for axis in ("batch size", "length")
        for name in ("plain loop", "ours", "ours, bfloat16")
    ]
    draw(curves, tmp_path / "a.svg", "this machine")
    draw(copy.deepcopy(curves), tmp_path / "b.svg", "this machine")
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    assert "this machine" in text
    assert text.count(">ours, bfloat16<") == 4
    assert text == (tmp_path / "b.svg").read_text(encoding="utf-8")


# The whole run


def test_nothing_is_timed_if_something_is_wrong(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(suite, "checks", lambda: [Check("right", 0, 0), Check("wrong", 1, 0)])
    monkeypatch.setattr(suite, "SECTIONS", {"training": lambda quick: pytest.fail("was timed")})
    assert suite.main(["--quick", "--output_dir", str(tmp_path)]) == 1
    assert "NOT EQUAL  wrong" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_results_are_written(monkeypatch, tmp_path, capsys) -> None:
    section = results.Section("Title", "Notes.", goals=[results.Goal("a goal", 2, 3)])
    monkeypatch.setattr(suite, "checks", lambda: [Check("right", 0, 0)])
    monkeypatch.setattr(suite, "SECTIONS", {"training": lambda quick: section})
    assert suite.main(["--quick", "--output_dir", str(tmp_path)]) == 0
    data = json.loads((tmp_path / "quick.json").read_text(encoding="utf-8"))
    assert list(data["sections"]) == ["training"]
    assert data["checks"][0]["passed"] is True
    assert "a goal" in capsys.readouterr().out


def test_an_interrupted_run_keeps_what_it_has(monkeypatch, tmp_path) -> None:
    def interrupt(quick: bool) -> results.Section:
        raise KeyboardInterrupt

    section = results.Section("Title", "Notes.", goals=[results.Goal("a goal", 2, 3)])
    monkeypatch.setattr(suite, "checks", lambda: [Check("right", 0, 0)])
    monkeypatch.setattr(suite, "SECTIONS", {"training": lambda quick: section, "data": interrupt})
    with pytest.raises(KeyboardInterrupt):
        suite.main(["--output_dir", str(tmp_path)])
    data = json.loads((tmp_path / "full.json").read_text(encoding="utf-8"))
    assert list(data["sections"]) == ["training"]


def test_without_a_gpu_its_part_is_left_out(monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setattr(suite, "checks", lambda: [Check("right", 0, 0)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(suite, "SECTIONS", {"gpu": lambda quick: pytest.fail("was measured")})
    assert suite.main(["--output_dir", str(tmp_path)]) == 0
    assert "gpu: left out, there is no CUDA device" in capsys.readouterr().out


def test_the_gpus_part_alone_begins_at_once_and_is_kept_as_it_comes(monkeypatch, tmp_path) -> None:
    def measure(quick: bool, save: Callable[[results.Section], None]) -> results.Section:
        section = results.Section("GPU", "", rows=[results.Row("a step", 1.0, "ms")])
        save(section)
        kept = json.loads((tmp_path / "quick.json").read_text(encoding="utf-8"))
        assert kept["sections"]["gpu"] == section.as_dict()
        return section

    monkeypatch.setattr(suite, "checks", lambda: pytest.fail("minutes on the CPU"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(suite, "SECTIONS", {"gpu": measure})
    assert suite.main(["--quick", "--only", "gpu", "--output_dir", str(tmp_path)]) == 0


def test_the_gpus_part_by_itself_writes_what_it_prints(toy_of_a_gpu, tmp_path, capsys) -> None:
    target = tmp_path / "gpu.json"
    gpu_speed.main(["--output", str(target), "--seconds", "-1"])
    written = json.loads(target.read_text(encoding="utf-8"))
    rows = written["sections"]["gpu"]["rows"]
    assert capsys.readouterr().out.count(" left out: the time is over\n") == len(rows) > 5
    assert written["machine"]["versions"]["torch"] == torch.__version__


@pytest.fixture
def toy_of_a_gpu(monkeypatch, ways_of_gpus) -> Callable[..., results.Section]:
    """The GPU's part at toy sizes, on a CPU."""
    monkeypatch.setattr("benchmarks.stopwatch.gc.collect", lambda: 0)  # a third of a second each
    return functools.partial(gpu_speed.measure_on, torch.device("cpu"), gpu_report.TOY)


def test_the_gpus_part_runs_on_toy_sizes(toy_of_a_gpu, capsys) -> None:
    """What it calls is there and fits together; its numbers mean nothing here."""
    seen: list[int] = []
    section = toy_of_a_gpu(save=lambda section: seen.append(len(section.rows)))
    rows = {(row.name, row.unit): row.value for row in section.rows}
    size = "width 16, 2 x 3 x 3"
    assert {
        (f"training, {gpu_speed.LOOP}, bfloat16, {size}", "ms a step"),
        (f"training, MarianMT, float32, {size}", "target tokens/s"),
        (f"training, MarianMT, bfloat16, {size}", "MiB at most"),
        (f"training, {gpu_speed.LOOP}, bfloat16, width 16, 3 x 3 x 3", "ms a step"),
        ("decoding, 2 beams, batch 2, bfloat16, fast", "sentences/s"),
        ("decoding, greedy, batch 2, float32, MarianMT", "sentences/s"),
        (f"recurrence, both ways, fast, {size}", "times the floor"),
        (f"recurrence, forward, floor, {size}", "us a step"),
        ("launch", "us"),
    } <= rows.keys()
    graphs = find_spec("bahdanau_hf.gpu.step_graphs")
    ready = {"cuda": "cuda" in implementations(), "graph": graphs is not None}
    for (name, unit), value in rows.items():
        is_ready = all(here for word, here in ready.items() if f", {word}" in name)
        assert (value is not None) == is_ready, (name, unit)
        assert value is None or (math.isfinite(value) and (value > 0 or unit == "MiB at most"))
    assert gpu_speed.LOOP not in implementations()
    names = [goal.name for goal in section.goals]
    assert len(names) == (3 if all(ready.values()) else ready["cuda"]), names
    assert seen == sorted(seen)
    assert seen[-1] == len(rows) == len(section.rows)
    told = capsys.readouterr().out.count(" ms a step\n")
    assert told == sum(unit == "ms a step" for _, unit in rows)


def test_a_part_of_the_gpus_that_fails_is_a_row_and_the_others_go_on(
    toy_of_a_gpu, monkeypatch
) -> None:
    def fail(*given: object, **changes: object) -> None:
        raise RuntimeError("no such model")

    monkeypatch.setattr(gpu_speed, "make_marian", fail)
    section = toy_of_a_gpu()
    failed = [row for row in section.rows if "MarianMT" in row.name]
    assert {(row.value, row.unit) for row in failed} == {
        (None, "failed: RuntimeError: no such model")
    }
    assert any(row.value for row in section.rows if row.name.startswith("decoding"))
    assert "no such model" in section.text()
    json.dumps(section.as_dict(), allow_nan=False)


def test_nothing_of_the_gpus_begins_when_the_time_is_over(toy_of_a_gpu) -> None:
    section = toy_of_a_gpu(seconds=-1.0)
    assert {(row.value, row.unit) for row in section.rows} == {(None, "left out: the time is over")}
    assert len(section.rows) == 2 + len(gpu_report.TOY.decoded) + 1 + 3


def test_a_recurrences_floor() -> None:
    """By hand: 2 rows, 3 places, width 5; gates and query are 4 widths, keys and gates as well."""
    size = gpu_report.Size(2, 3, 7, 11, 5)
    weights, source = 4 * 5 * 5, 2 * 3 * (5 + 15)
    slow = {"multiplication": 1.0, "byte": 1e-9}
    floor = 2 * weights + source
    assert gpu_recurrence.step_floors(size, slow) == {"forward": floor, "both ways": 3 * floor}
    slow = {"multiplication": 1e-9, "byte": 1.0}
    floor = 2 * (weights + source)
    assert gpu_recurrence.step_floors(size, slow) == {"forward": floor, "both ways": 3 * floor}


def test_the_gpus_peer_is_as_large_and_as_wide() -> None:
    size = gpu_report.Size(2, 3, 3, 32, 48, 3000)
    ours = gpu_speed._ours(torch.device("cpu"), size, "fast")
    peer = gpu_speed._marian(torch.device("cpu"), size)
    assert peer.num_parameters() == pytest.approx(ours.num_parameters(), rel=0.01)
    assert peer.get_input_embeddings().weight.shape == (3000, 32)
    assert peer.get_output_embeddings().weight.shape == (3000, 32)


@pytest.mark.slow
def test_memory_grows_with_the_batch() -> None:
    small, large = (in_own_process("ours", Size(n, 20, 20), tidy=True) for n in (8, 32))
    assert 1.5 * small < large < 4 * small


@pytest.mark.slow
def test_the_command(tmp_path) -> None:
    command = ["benchmarks/run.py", "--quick", "--only", "data", "--output_dir", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "equal      loss is the plain loop's" in done.stdout
    assert "target tokens/CPU s" in done.stdout
    assert (tmp_path / "quick.json").exists()
