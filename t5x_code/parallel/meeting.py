"""Where the processes of a run meet: they compare what must be alike, wait for each other, and hear of errors by name.

All of it goes through the coordinator's key-value store, before and beside the devices: a process that computes
something else, or is missing, would otherwise show as a hang in a collective.
"""

import json
import socket
import threading
import traceback
from collections.abc import Callable
from typing import TypeVar

import jax

# The store has no public name; its three calls here are used by Orbax and JAX's own tools alike.
from jax._src import distributed

from t5x_code.buckets import explain
from t5x_code.errors import RunAgain, UserError, one_line
from t5x_code.terminal import say

Result = TypeVar("Result")
Facts = dict[str, str]
Verdict = tuple[bool, str]  # whether what is wrong may pass, and what it is
NEVER_SAME = "host"  # a fact that only names the process
PASSES = "passes"
VERDICT = "verdict"
REMIND_SECONDS = 300  # after which a process says whom it waits for, or after half of a shorter time


def agree(name: str, facts: Facts, seconds: int) -> None:
    """Refuses to go on, in every process, unless the facts of all are alike.

    Args:
        name: of the meeting, the same in all; used once in a run.
        facts: by name what must be alike; long texts are compared line by line.
        seconds: how long to wait for the others.

    Raises:
        UserError: names the first process that differs from process 0, and what differs.
        RunAgain: not all came in time.
    """
    if jax.process_count() == 1:
        return
    _meet(name, facts | {NEVER_SAME: socket.gethostname()}, _first_difference, seconds)


def in_every_process(name: str, make: Callable[[], Result], seconds: int) -> Result:
    """Calls `make` in each process. What ends it in one is raised in all, by the process' name; else its own result.

    Raises:
        UserError: of this process or another; also where a bucket refused it.
        RunAgain: likewise, where what was wrong may pass or is a defect; or not all came in time.
    """
    if jax.process_count() == 1:
        return make()
    result, passes, error = None, False, ""
    try:
        result = make()
    except Exception as own:
        passes, error = explain(own) or show_defect(own)
    _meet(name, {NEVER_SAME: socket.gethostname(), "error": error, PASSES: str(passes)}, _first_error, seconds)
    return result


def first_alone(name: str, make: Callable[[], Result], seconds: int) -> Result:
    """Calls `make` in process 0, and when it is done in the others, which then find what it left on a shared disk.

    Raises:
        UserError: process 0's, in all; or this process' own.
        RunAgain: likewise, where what was wrong may pass; or process 0 is not done in time.
    """
    if jax.process_count() == 1:
        return make()
    if jax.process_index() == 0:
        error, passes = "", False
        try:
            return make()
        except BaseException as own:
            passes, error = explain(own) or (True, _name(own))
            raise
        finally:
            _publish(f"{name}/done", json.dumps([passes, error]))
    passes, error = json.loads(_read(f"{name}/done", seconds, 0))
    if error:
        raise (RunAgain if passes else UserError)(f"process 0: {error}")
    return make()


def barrier(name: str, seconds: int) -> None:
    """Waits until every process is here.

    Raises:
        RunAgain: some did not come in time.
    """
    if jax.process_count() == 1:
        return
    try:
        distributed.global_state.client.wait_at_barrier(f"t5x_code/{name}", timeout_in_ms=1000 * seconds)
    except jax.errors.JaxRuntimeError as error:
        reason = one_line(error)[:200]
        raise RunAgain(f"not every process came to '{name}' within {seconds} s: {reason}") from error


def leave(name: str, text: str) -> None:
    """Leaves a text for process 0, which takes those of all at a later meeting of another kind."""
    _publish(f"{name}/{jax.process_index()}", text)


def take_all(name: str) -> list[str]:
    """The texts that were left under a name so far; they are there no more."""
    if jax.process_count() == 1:
        return []
    left = distributed.global_state.client.key_value_dir_get(f"t5x_code/{name}/")
    distributed.global_state.client.key_value_delete(f"t5x_code/{name}/")
    return [text for _, text in left]


def show_defect(error: Exception) -> Verdict:
    """Prints where an error arose, which the other processes have no use for, and returns what to tell them."""
    traceback.print_exception(error)
    return True, _name(error)


def _name(error: BaseException) -> str:
    return traceback.format_exception_only(error)[-1].strip()


def _meet(name: str, own: Facts, judge: Callable[[list[Facts]], Verdict], seconds: int) -> None:
    """Process 0 hears all and judges; its verdict, where it is not empty, is raised in every process."""
    _publish(f"{name}/{jax.process_index()}", json.dumps(own))
    if jax.process_index() == 0:
        try:
            heard = [json.loads(_read(f"{name}/{index}", seconds, index)) for index in range(jax.process_count())]
            verdict = judge(heard)
        except RunAgain as missing:
            verdict = True, str(missing)
        _publish(f"{name}/{VERDICT}", json.dumps(verdict))
    passes, message = json.loads(_read(f"{name}/{VERDICT}", 2 * seconds, 0))
    if message:
        raise (RunAgain if passes else UserError)(message)


def _publish(key: str, value: str) -> None:
    distributed.global_state.client.key_value_set(f"t5x_code/{key}", value)


def _read(key: str, seconds: int, publisher: int) -> str:
    what, _, kind = key.rpartition("/")
    others = ", which waits for the others," if kind == VERDICT else ""
    late = f"still waiting for process {publisher}{others} to say '{what}', for {seconds} s at most"
    reminder = threading.Timer(min(REMIND_SECONDS, seconds / 2), say, [late])
    reminder.daemon = True
    reminder.start()
    try:
        return distributed.global_state.client.blocking_key_value_get(f"t5x_code/{key}", 1000 * seconds)
    except jax.errors.JaxRuntimeError as error:
        raise RunAgain(
            f"process {publisher} did not say '{what}' within {seconds} s: it is slow, stuck or gone"
        ) from error
    finally:
        reminder.cancel()


def _first_difference(facts: list[Facts]) -> Verdict:
    """Says the first process that is not like process 0; nothing where all are alike."""
    first = facts[0]
    for index, other in enumerate(facts):
        for name in first:
            if name != NEVER_SAME and other[name] != first[name]:
                mine, theirs = _differing_lines(first[name], other[name])
                there = f"{theirs!r} in process {index} ({other[NEVER_SAME]})"
                here = f"{mine!r} in process 0 ({first[NEVER_SAME]})"
                return False, f"{name} is {there} but {here}; start all with the same command, code and data"
    return False, ""


def _first_error(outcomes: list[Facts]) -> Verdict:
    for index, outcome in enumerate(outcomes):
        if outcome["error"]:
            message = f"process {index} ({outcome[NEVER_SAME]}): {outcome['error']}"
            return outcome[PASSES] == str(True), message
    return False, ""


def _differing_lines(one: str, other: str) -> tuple[str, str]:
    """The first lines that only one of two texts has."""
    ours, theirs = one.splitlines(), other.splitlines()
    only_ours = [line for line in ours if line not in theirs]
    only_theirs = [line for line in theirs if line not in ours]
    return (only_ours or ["nothing"])[0].strip(), (only_theirs or ["nothing"])[0].strip()
