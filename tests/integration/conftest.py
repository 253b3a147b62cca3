"""What the end-to-end tests share: real Python to train on, the command lines in this process and in others, one run.

Command lines run in this process where start-up would take longer than the test; real processes where a process is
what is tested.
"""

import ast
import contextlib
import fcntl
import io
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import pytest
from absl import flags
from command_lines import ROOT, STEPS, Ended, free_port

NUM_DOCUMENTS = 600
# Runs on one device take so many steps that what launch/test.sh spares the compiler costs them more; those of several
# devices or processes take longer to compile, and few steps.
COMPILED_WELL = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}


@pytest.fixture(scope="module", autouse=True)
def shared_steps(traced_once):
    """Runs that tests of one file start in this process share their steps."""


@pytest.fixture(scope="session")
def of_all_workers(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """A function that gives a folder which the first worker to ask for it makes, and the others wait for."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder

    def made(name: str, make: Callable[[Path], None]) -> Path:
        with open(folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / f"{name}.made").exists():
                (folder / name).mkdir(exist_ok=True)
                make(folder / name)
                (folder / f"{name}.made").touch()
        return folder / name

    return made


@pytest.fixture(scope="session")
def environment(tmp_path_factory):
    """Variables of every command: a cache of this session's own, one CPU device."""
    flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if "device_count" not in flag]
    own = {
        "T5X_CODE_CACHE": str(tmp_path_factory.mktemp("cache")),
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": " ".join(flags),
        "COLUMNS": "100",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in own.items():
            patch.setenv(name, value)
        patch.delenv("JAX_NUM_CPU_DEVICES", raising=False)
        yield dict(os.environ)


@pytest.fixture(scope="session")
def corpus(of_all_workers) -> Path:
    """Functions and classes of the running interpreter's library, one file each."""

    def write(folder: Path) -> None:
        written = 0
        for path in sorted(Path(os.__file__).parent.glob("[a-z]*.py")):
            text = path.read_text(encoding="utf-8")
            lines = text.splitlines(keepends=True)
            for node in ast.parse(text).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and written < NUM_DOCUMENTS:
                    source = "".join(lines[node.lineno - 1 : node.end_lineno])
                    if 300 < len(source) < 6000:
                        (folder / f"{path.stem}_{node.name}_{node.lineno}.py").write_text(source, encoding="utf-8")
                        written += 1
        assert written > NUM_DOCUMENTS // 2

    return of_all_workers("corpus", write)


@pytest.fixture(scope="session")
def script(environment) -> Callable[..., Ended]:
    """A function that runs `launch/<name>` in this process as the command line would.

    `is_long`: of train.py, whether it takes so many steps that it is compiled well.
    """

    def run(name: str, *arguments: str, is_long: bool = True) -> Ended:
        out, err = io.StringIO(), io.StringIO()
        in_a_hurry = jax.config.read("jax_disable_most_optimizations")
        if is_long and name == "train.py":
            jax.config.update("jax_disable_most_optimizations", False)
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.setattr(sys, "argv", [f"launch/{name}", *arguments])
            patch.chdir(ROOT)
            try:
                runpy.run_path(str(ROOT / "launch" / name), run_name="__main__")
                code = 0
            except SystemExit as end:
                code = end.code
            finally:
                jax.config.update("jax_disable_most_optimizations", in_a_hurry)
                # The next script may define flags of the same names.
                for module, defined in flags.FLAGS.flags_by_module_dict().items():
                    if module.endswith(f"launch/{name}") or module.startswith("t5x_code."):
                        for flag in list(defined):
                            delattr(flags.FLAGS, flag.name)
        return Ended(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture(scope="session")
def start(environment) -> Callable[..., subprocess.Popen]:
    """A function that starts `launch/<name>` as a process of its own, with changes to its environment."""

    def run(name: str, *arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.Popen:
        command = [sys.executable, str(ROOT / "launch" / name), *arguments]
        is_long = name == "train.py" and not variables.keys() & {"JAX_NUM_CPU_DEVICES", "JAX_NUM_PROCESSES"}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(
            command, cwd=cwd, env={**environment, **(COMPILED_WELL if is_long else {}), **variables}, **pipes
        )

    return run


@pytest.fixture(scope="session")
def start_many(start) -> Callable[..., list[subprocess.Popen]]:
    """A function that starts train.py as several processes of one run; `own` gives each its further arguments.

    `folders` are where they start.
    """

    def run(
        count: int,
        arguments: list[str],
        own: Sequence[Sequence[str]] = (),
        folders: Sequence[Path] = (),
        **variables: str,
    ) -> list[subprocess.Popen]:
        names = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": str(count)}
        more, cwd = own or [()] * count, folders or [ROOT] * count
        processes = [
            start("train.py", *arguments, *more[n], cwd=cwd[n], **names, JAX_PROCESS_ID=str(n), **variables)
            for n in range(count)
        ]
        # A core for each, so that one overtakes another: collectives in orders of their own would be seen.
        cores = sorted(os.sched_getaffinity(0))
        for n, process in enumerate(processes):
            os.sched_setaffinity(process.pid, {cores[n % len(cores)]})
        return processes

    return run


@pytest.fixture(scope="session")
def tiny(corpus) -> Callable[..., list[str]]:
    """A function that gives the arguments of a small run in a folder; `NAME=value` come last."""

    def arguments(model_dir: Path, *bindings: str) -> list[str]:
        settings = [
            f"MIXTURE='text_files:{corpus}'",
            f"MODEL_DIR='{model_dir}'",
            f"TRAIN_STEPS={STEPS}",
            "LOG_PERIOD=1",
            "EVAL_PERIOD=20",
            "CHECKPOINT_PERIOD=10",
            "OptimizerConfig.ema_decay=0.9",
        ]
        files = ["--gin_file=gin/quickstart.gin", "--gin_file=gin/models/tiny.gin"]
        return [*files, *(f"--gin.{setting}" for setting in (*settings, *bindings))]

    return arguments


@pytest.fixture(scope="session")
def whole_run(of_all_workers, script, tiny) -> Path:
    """A run that nothing disturbed. Tests read it, or work on a copy."""

    def train(folder: Path) -> None:
        ended = script("train.py", *tiny(folder / "whole"))
        assert ended.code == 0, ended.err
        (folder / "said.txt").write_text(ended.err)

    return of_all_workers("runs", train) / "whole"
