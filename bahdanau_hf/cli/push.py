"""Publish a checkpoint as one commit on the Hub: as a model, or as a page that translates.

Sends exactly what loading and judging the checkpoint needs, or with `--space static` the exported
model with a page that runs it in the browser; leaves the folder as it is.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from ..errors import InputError

_OWN = {"folder", "space", "space_dir"}  # flags of this command alone
FLAGS = {
    "folder DIR": "output_dir of a finished run",
    "repo_id REPO": "OWNER/NAME; made if it does not exist",
    "--private": "make a new repository private",
    "--revision REVISION": "branch to push to; default: the main one",
    "--create_pr": "open a pull request instead",
    "--tag TAG": "tag for the new commit",
    "--message MESSAGE=Upload the model": "message of the commit",
    "--dry_run": "list the files, send nothing",
    "--space {static}": "publish a Space in place of the model: a page that translates in the "
    "browser; DIR may be an exported model too",
    "--space_dir DIR": "keep the files of the Space in this folder",
}


def run(args: argparse.Namespace) -> None:
    """List the files and push them; a model that is not exported yet is exported for a Space."""
    from ..hub.push import push_folder, push_space, release_files

    options = {key: value for key, value in vars(args).items() if key not in _OWN}
    release = Path(args.folder)
    if args.space is None:
        if args.space_dir is not None:
            raise InputError("--space_dir goes with --space static")
        _list(release, release_files(release))
        where = push_folder(release, **options)
    else:
        if args.tag or args.create_pr or args.revision:
            raise InputError("--tag, --create_pr and --revision are for models: leave them out")
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(args.space_dir or f"{scratch}/space")
            _list(folder, _lay_out(release, folder, Path(scratch)))
            names = ("repo_id", "private", "dry_run", "message")
            where = push_space(folder, **{name: options[name] for name in names})
    print(f"nothing sent: {args.repo_id} would get these files" if where is None else where)


def _list(folder: Path, names: list[str]) -> None:
    for name in names:
        print(f"{(folder / name).stat().st_size:>12,}  {name}")


def _lay_out(model_dir: Path, space_dir: Path, scratch: Path) -> list[str]:
    """Assemble the page, of an exported model as it is, else of one that is exported now."""
    from ..data.tokenization import load_tokenizer
    from ..demo.static_space import assemble_static_space
    from ..export.onnx_export import check_installed, export_onnx
    from ..inference.loading import load_model

    if not (model_dir / "translation.json").is_file():
        check_installed()
        model = load_model(model_dir)
        export_onnx(model, load_tokenizer(model_dir), scratch / "exported")
        model_dir = scratch / "exported"
    return assemble_static_space(model_dir, space_dir)
