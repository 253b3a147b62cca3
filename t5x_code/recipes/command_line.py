"""What every command line shares: flags, `--gin.NAME=value`, one clear line and exit code 2 for bad input."""

import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import flags
from absl import logging as absl_logging

from t5x_code.buckets import explain
from t5x_code.errors import EXIT_BAD_INPUT, EXIT_RUN_AGAIN, FailedTogether, UserError, one_line
from t5x_code.terminal import say

HELP = ("--help", "-h", "-help", "--helpfull")
EXIT_INTERRUPTED = 130  # as of a shell's command that Ctrl-C ends


def run(main: Callable[[list[str]], None]) -> NoReturn:
    """Parses absl flags, runs `main(argv)` and exits: 0 when it returns, 2 with one line when the input is bad,
    75 when the same command has only to be run again."""
    silence_tracebacks()
    logging.getLogger("jax").setLevel(logging.ERROR)
    argv, bindings = split_gin_bindings(sys.argv)
    if any(argument in HELP for argument in argv):
        print(
            sys.modules["__main__"].__doc__, flags.FLAGS.main_module_help(), flags.FLAGS.module_help(__name__), sep="\n"
        )
        sys.exit(0)
    try:
        positional = flags.FLAGS(argv, known_only=False)
        if flags.FLAGS.is_parsed() and "gin_binding" in flags.FLAGS:
            flags.FLAGS.gin_binding = [*flags.FLAGS.gin_binding, *bindings]
        elif bindings:
            raise UserError(f"--gin.{bindings[0]}: this command takes no gin bindings")
        main(positional)
    except KeyboardInterrupt:
        _exit_at_once(EXIT_INTERRUPTED)
    except Exception as error:
        _end(error)
    sys.exit(0)


def _end(error: Exception) -> NoReturn:
    """Exits as the error asks for; raises it again where it is none that a person can mend."""
    explained = (False, str(error)) if isinstance(error, flags.Error) else explain(error)
    if explained is None:
        raise error
    passes, reason = explained
    code, advice = (EXIT_RUN_AGAIN, "; run the same command again") if passes else (EXIT_BAD_INPUT, "")
    say(f"error: {one_line(reason)}{advice}")
    if passes or isinstance(error, FailedTogether):
        _exit_at_once(code)
    sys.exit(code)


def _exit_at_once(code: int) -> NoReturn:
    """A gentler exit would wait for the processes that are gone, or take the interpreter down below JAX's threads."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)


def silence_tracebacks() -> None:
    """Keeps the pages of traceback off the terminal that Orbax, TensorStore and gcsfs print when a save or a request
    fails, for which we have one line."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    for name in ("asyncio", "gcsfs"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    before = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        # TensorStore's callbacks come after Orbax has closed the event loop that waited for them.
        if str(unraisable.exc_value) != "Event loop is closed":
            before(unraisable)

    sys.unraisablehook = hook


def define_recipe_flags() -> None:
    """Adds `--gin_file` and `--gin.NAME=value` to a command line."""
    flags.DEFINE_multi_string("gin_file", [], "A recipe; may be repeated, later files win.")
    flags.DEFINE_multi_string("gin_binding", [], "Same as --gin.NAME=value, written --gin_binding='NAME=value'.")


def split_gin_bindings(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Takes the `--gin.NAME=value` arguments out of argv.

    Returns:
        The remaining arguments, and the bindings as `NAME=value`.
    """
    rest, bindings = [], []
    for argument in argv:
        if argument.startswith("--gin."):
            bindings.append(argument.removeprefix("--gin."))
        else:
            rest.append(argument)
    return rest, bindings
