"""The one exception for bad input: its message is what the user reads, whole, on one line."""


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what to do; command lines print it and exit with 2."""
