"""Show a web page to try a checkpoint, or write it as a Space of the Hub.

A Space is one folder: the package, the model, the requirements and a README whose front matter
tells the Hub what to run.
"""

from __future__ import annotations

import argparse
import sys

from ..errors import InputError

FLAGS = {
    "--model MODEL": "folder of a checkpoint, or a repository on the Hub",
    "--space_dir SPACE_DIR": "write the page as a Space to this new folder",
    "--host HOST": "address to listen at; default: this machine alone",
    "--port PORT": "default: the first free one from 7860 on",
}
REQUIRED = ["--model"]


def run(args: argparse.Namespace) -> None:
    """Serve the page until it is stopped, or write the Space."""
    import torch

    from ..demo.page import NUM_AT_ONCE, Answers, build_page
    from ..demo.space import assemble_space
    from ..inference.translator import Translator

    translator = Translator.from_pretrained(args.model)
    if args.space_dir:
        folder = assemble_space(translator, args.space_dir)
        print(f"{folder}; publish it: hf upload OWNER/NAME {folder} . --repo-type space")
        return
    torch.set_num_threads(max(1, torch.get_num_threads() // NUM_AT_ONCE))
    page, options = build_page(Answers(translator))
    try:
        # Without a host Gradio listens on loopback, or where a Space tells it by its environment.
        # Quiet: its own lines advise to show the page to everybody.
        place = {"server_name": args.host, "server_port": args.port}
        _, url, _ = page.launch(quiet=True, prevent_thread_lock=True, **place, **options)
    except OSError as error:
        raise InputError(str(error)) from None
    print(f"the page is at {url}; Ctrl-C ends it", file=sys.stderr, flush=True)
    page.block_thread()
