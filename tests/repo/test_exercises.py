"""Every exercise fails for its reason, its solution passes, and the pages speak of all of them."""

import re

import pytest

from tests.helpers.places import ROOT

FOLDER = ROOT / "exercises"
PAGES = [ROOT / "docs" / "exercises" / name for name in ("index.md", "index.zh.md")]
REASONS = {
    "01_mask": "of the attention of a short sentence goes to its padding",
    "02_labels": "step 1 reads label 1, the very token that it has to write",
    "03_beams": "a beam goes on from the state of another",
    "04_bleu": "one character of eleven is wrong, and BLEU is 0.0",
    "05_tanh": "every state gets the same weights: the query cancels out in the softmax",
    "06_dot_product": "though tanh is at most 1",
    "07_query": "the bottom layer's state asks the attention",
    "08_gru_state": "this is the last state of the bottom layer",
    "09_teacher_forcing": "another reference gives another translation",
    "10_padding_loss": "with more padding behind the same labels the loss is",
}


class Reports:
    """What the tests that pytest has run in this process say."""

    def __init__(self) -> None:
        self.failures: dict[str, list[str]] = {}
        self.num_passed = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            name = report.nodeid.split("/")[1]
            self.failures.setdefault(name, []).append(report.longrepr.reprcrash.message)
        self.num_passed += report.passed and report.when == "call"


def run(*options: str) -> Reports:
    """Run all exercises as a reader does."""
    reports = Reports()
    pytest.main([str(FOLDER), "-p", "no:cacheprovider", *options], plugins=[reports])
    return reports


def test_every_exercise_is_broken_for_its_reason() -> None:
    failures = run().failures
    assert [*failures] == [*REASONS], "some are mended: `git restore exercises` breaks them again"
    for name, reason in REASONS.items():
        first, *others = failures[name]
        assert reason in first
        assert all("assert" in message.lower() for message in others)


def test_every_solution_passes() -> None:
    reports = run("--solution")
    assert reports.failures == {}
    assert reports.num_passed == 2 * len(REASONS)


def test_a_solution_differs_by_a_few_lines() -> None:
    for name in REASONS:
        broken, solution = (
            (FOLDER / name / f"{which}.py").read_text(encoding="utf-8").splitlines()
            for which in ("broken", "solution")
        )
        assert broken != solution
        assert len({*broken} ^ {*solution}) <= 8, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_name_all(page) -> None:
    text = page.read_text(encoding="utf-8")
    names = [*REASONS]
    assert sorted(path.parent.name for path in FOLDER.glob("*/broken.py")) == names
    assert re.findall(r"^## .*`(\w+)`$", text, re.M) == names
    assert text.count("<details>") == text.count("</details>") == len(names)
