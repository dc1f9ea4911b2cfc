"""Processes that have the libraries and have never heard of this package."""

import sys
import sysconfig

BEGINNING = """
import sys
sys.path.append(sys.argv.pop(1))      # the libraries ...
sys.modules["bahdanau_hf"] = None     # ... but not the package, however it is installed
"""


def as_stranger(program: str, *arguments: object) -> list[str]:
    """The command that runs Python code so; its arguments are those after `sys.argv[0]`."""
    # -I: neither this folder nor PYTHONPATH; -S: no .pth files, so no editable installs.
    command = [sys.executable, "-I", "-S", "-c", BEGINNING + program]
    return [*command, sysconfig.get_path("purelib"), *map(str, arguments)]
