"""Two real processes on this machine that meet as JAX's do on two hosts."""

import os
import socket
import subprocess
import sys
import textwrap

from t5x_code.parallel.hosts import PROCESS_VARIABLES


def run_two(source: str, *arguments: str) -> list[subprocess.CompletedProcess[str]]:
    """Runs a program in each, which finds the other by its environment; how they ended, by index."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    command = [sys.executable, "-c", textwrap.dedent(source), *arguments]
    processes = []
    for index in range(2):
        own = dict(zip(PROCESS_VARIABLES, (address, "2", str(index)), strict=True))
        environment = {**os.environ, **own, "JAX_PLATFORMS": "cpu"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        processes.append(subprocess.Popen(command, env=environment, text=True, **pipes))
    said = [process.communicate(timeout=120) for process in processes]
    codes = [process.returncode for process in processes]
    return [subprocess.CompletedProcess(command, code, *text) for code, text in zip(codes, said, strict=True)]
