"""What a person reads while a command runs: one line for each event, on stderr, apart from what the command prints."""

import sys


def say(text: str) -> None:
    """One event, one line."""
    print(text, file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """What is not as it should be, and does not end the command."""
    say(f"warning: {text}")
