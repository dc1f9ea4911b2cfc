"""The one exception for mistakes that the user can mend, and what to quote of others in it."""

_LONGEST = 900  # characters of a message, whatever it quotes


class InputError(ValueError):
    """What the user gave cannot be used: a file, a flag, a row, a checkpoint.

    The message is one line that says what was wrong, where (file and line, if there is one) and
    what to do; what a terminal would not print of the input that it quotes is escaped, and a very
    long message is cut. Commands print it without a traceback and exit with status 2. Lines of code
    to type may follow it.
    """

    def __init__(self, message: str, *code: str) -> None:
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST * 2 // 3]} [...] {message[-_LONGEST // 4 :]}"
        super().__init__("\n".join(map(_printable, (message, *code))))


def first_line(error: Exception) -> str:
    """What a library's error says, in its first line; its kind, if it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
