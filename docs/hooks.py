"""Puts pages from outside of `docs/` into the site, and makes links lead there.

Benchmarks, notebooks, bundled pairs, CONTRIBUTING and CHANGELOG stay where their files are, so that
links work in the repository. In the site all pages share one tree, with `docs/` at its root.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pymdownx.slugs import slugify

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "bahdanau_hf/pairs/README.md"),
    *("benchmarks/*.md", "benchmarks/*.py", "benchmarks/results/**/*.svg", "tests/*.md"),
    *("notebooks/README.md", "notebooks/*/*.ipynb"),
    *("experiments/*.md", "experiments/*.py", "experiments/*.yaml", "experiments/results/**/*.svg"),
)


@event_priority(-200)  # after i18n, which takes the pages of `docs/` only
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from outside under their own names, once to the tree of each language."""
    i18n = config.plugins["i18n"]
    language = i18n.current_language
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            there = {}
            for other in i18n.build_languages:
                there[other] = File.generated(config, name, abs_src_path=str(path))
                if other != i18n.default_language:
                    there[other].dest_uri = f"{other}/{there[other].dest_uri}"
            file = there[language]
            file.locale, file.locale_alternate_of, file.alternates = "en", language, there
            files.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between `docs/` and the rest into links within one tree."""
    if page.file.generated_by is not None:
        return re.sub(r"\]\(((?:\.\./)*)docs/", r"](\1", markdown)
    if page.file.src_uri.endswith(".zh.md"):
        original = Path(page.file.abs_src_path.replace(".zh.md", ".md"))
        markdown = with_anchors_of(original.read_text(encoding="utf-8"), markdown)
    # In the site the repository's root is where `docs/` is.
    return re.sub(r"\]\(((?:\.\./)*)\.\./(?=[A-Z]|[bent]\w+/)", r"](\1", markdown)


def with_anchors_of(english: str, chinese: str) -> str:
    """The Chinese page, whose headings can also be reached as those of the English page."""
    heading = re.compile(r"^```.*?^```$|^##+ ([^\n]*)$", re.M | re.S)
    names = (found[1] for found in heading.finditer(english) if found[1])

    def anchored(found: re.Match[str]) -> str:
        name = slugify(case="lower")(next(names, ""), "-") if found[1] else ""
        return f'<a id="{name}"></a>\n\n{found[0]}' if name else found[0]

    return heading.sub(anchored, chinese)
