"""The one exception for mistakes that the user can mend."""


class InputError(ValueError):
    """What the user gave cannot be used: a file, a flag, a row, a checkpoint.

    The message is one line that says what was wrong, where (file and line, if there is one) and
    what to do. Commands print it without a traceback and exit with status 2.
    """
