"""Publish a checkpoint as one commit of a model repository on the Hub.

Sends exactly what loading and judging the checkpoint needs, and leaves the folder as it is.
"""

from __future__ import annotations

import argparse
from pathlib import Path


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Describe the command's flags."""
    parser.add_argument("folder", metavar="DIR", type=Path, help="output_dir of a finished run")
    parser.add_argument("repo_id", metavar="REPO", help="OWNER/NAME; made if it does not exist")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--revision", help="branch to push to; default: the main one")
    parser.add_argument("--create_pr", action="store_true", help="open a pull request instead")
    parser.add_argument("--tag", help="tag for the new commit")
    parser.add_argument("--message", default="Upload the model", help="message of the commit")
    parser.add_argument("--dry_run", action="store_true", help="list the files, send nothing")


def run(args: argparse.Namespace) -> None:
    """List the files and push them.

    Raises:
        InputError: the folder is no complete release, or the Hub cannot be reached or refuses.
    """
    from ..hub.push import push_folder, release_files

    for name in release_files(args.folder):
        print(f"{(args.folder / name).stat().st_size:>12,}  {name}")
    options = {key: value for key, value in vars(args).items() if key != "folder"}
    where = push_folder(args.folder, **options)
    print(f"nothing sent: {args.repo_id} would get these files" if where is None else where)
