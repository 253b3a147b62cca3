"""The exceptions that command lines turn into one line: bad input, and a run that only has to be started again."""

from collections.abc import Collection

EXIT_BAD_INPUT = 2
EXIT_RUN_AGAIN = 75  # EX_TEMPFAIL of sysexits.h; launchers start the same command again on any code but 0 and 2


class UserError(Exception):
    """Bad input. The message says what is wrong, where, and what to do; command lines print it and exit with 2."""


class FailedTogether(UserError):
    """A UserError of a run of several processes, of which the others have heard and end. Command lines exit at once."""


class RunAgain(Exception):
    """What is in the way may pass: another process is gone or stuck, a lost host's lock stands, a bucket is out of
    reach. The same command goes on from the newest checkpoint; command lines print the message and exit with 75."""


def one_line(error: BaseException | str) -> str:
    """An error's text, or another one, without its line breaks."""
    return " ".join(str(error).split())


def check_choice(setting: str, value: str, choices: Collection[str]) -> None:
    """Raises UserError, by the name of the setting, unless its value is one of the choices."""
    if value not in choices:
        raise UserError(f"{setting} is {value!r}: choose one of {', '.join(choices)}")
