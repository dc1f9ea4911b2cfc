"""Puts pages from outside of `docs/` into the site, and makes links lead there.

Benchmarks, notebooks, bundled pairs, CONTRIBUTING and CHANGELOG stay where their files are, so that
links work in the repository. In the site all pages share one tree, with `docs/` at its root.
"""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
OUTSIDE = (
    *("CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "bahdanau_hf/pairs/README.md"),
    *("benchmarks/*.md", "benchmarks/*.py", "benchmarks/results/**/*.svg", "tests/*.md"),
    *("notebooks/README.md", "notebooks/*/*.ipynb"),
    *("experiments/*.md", "experiments/*.py", "experiments/*.yaml", "experiments/results/**/*.svg"),
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from outside under their own names."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between `docs/` and the rest into links within one tree."""
    if page.file.generated_by is None:  # a page of docs/: the repository's root is here
        return re.sub(r"\]\(((?:\.\./)*)\.\./(?=[A-Z]|[bent]\w+/)", r"](\1", markdown)
    return re.sub(r"\]\(((?:\.\./)*)docs/", r"](\1", markdown)
