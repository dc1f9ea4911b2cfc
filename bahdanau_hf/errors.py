"""The one exception for mistakes that the user can mend."""


class InputError(ValueError):
    """What the user gave cannot be used: a file, a flag, a row, a checkpoint.

    The message is one line that says what was wrong, where (file and line, if there is one) and
    what to do; what a terminal would not print of the input that it quotes is escaped. Commands
    print it without a traceback and exit with status 2.
    """

    def __init__(self, message: str) -> None:
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in message)
        super().__init__("".join(shown))
