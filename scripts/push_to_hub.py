"""Publish a checkpoint: `python scripts/push_to_hub.py DIR OWNER/NAME [--dry_run] [--private] ...`.

Sends exactly what loading and judging the checkpoint needs, and leaves the folder as it is.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bahdanau_hf.errors import InputError
from bahdanau_hf.hub.push import push_folder, release_files


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Publish a checkpoint as one commit of a model repository on the Hub.",
        allow_abbrev=False,
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="what train.py left in output_dir")
    parser.add_argument("repo_id", metavar="REPO", help="OWNER/NAME; made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="branch to push to; default: the main one")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead")
    parser.add_argument("--tag", help="tag for the new commit")
    parser.add_argument("--message", default="Upload the model", help="of the commit")
    parser.add_argument("--dry_run", action="store_true", help="list what would go, send nothing")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Push, or say in one line why not; returns the exit status."""
    args = parse_arguments(arguments)
    try:
        names = release_files(args.folder)
        for name in names:
            print(f"{(args.folder / name).stat().st_size:>12,}  {name}")
        options = {key: value for key, value in vars(args).items() if key != "folder"}
        where = push_folder(args.folder, **options)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"nothing sent: {args.repo_id} would get these files" if where is None else where)
    return 0


if __name__ == "__main__":
    sys.exit(main())
