"""Two real processes on this machine that meet as JAX's do on two hosts."""

import os
import socket
import subprocess
import sys
import textwrap

from t5x_code.parallel.hosts import PROCESS_VARIABLES


def run_two(source: str, *arguments: str) -> list[str]:
    """Runs a program in each, which finds the other by its environment; what they print, by index."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    processes = []
    for index in range(2):
        own = dict(zip(PROCESS_VARIABLES, (address, "2", str(index)), strict=True))
        environment = {**os.environ, **own, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", textwrap.dedent(source), *arguments]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    return [process.communicate(timeout=120)[0] for process in processes]
