"""Imports go one way, training loads no TensorFlow, and no script shadows the standard library."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "t5x_code"
LINES = (
    ("source_code", "tokens", "objectives", "data"),
    ("models", "parallel", "checkpoints", "inference", "evaluation", "training"),
)
# What a room may use of the other line: benchmarks read programs and tokens.
ALSO = {"evaluation": {"source_code", "tokens"}}
# Rooms outside the two lines, with what they may use.
OTHERS = {"huggingface": {"models", "tokens", "checkpoints"}, "reports": set()}
# Single modules that may be used everywhere.
IN_NO_ROOM = [
    "buckets",
    "errors",
    "field_types",
    "file_checksum",
    "lines_file",
    "mapped_files",
    "output_file",
    "progress",
    "randomness",
    "surrogates",
    "terminal",
    "__version__",
]
NO_JAX = ("source_code", "tokens", "objectives")


def allowed_rooms(room: str) -> set[str]:
    for line in LINES:
        if room in line:
            return set(line[: line.index(room) + 1]) | ALSO.get(room, set())
    return OTHERS[room] | {room}


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


@pytest.mark.parametrize("room", [room for line in LINES for room in line] + list(OTHERS))
def test_a_room_imports_only_what_lies_before_it(room):
    for path in (PACKAGE / room).rglob("*.py"):
        for name in imported_modules(path):
            parts = name.split(".")
            if parts[0] == "t5x_code" and parts[1:] and parts[1] not in IN_NO_ROOM:
                assert parts[1] in allowed_rooms(room), f"{path.relative_to(ROOT)} imports {name}"
            if parts[0] in ("gin",):
                pytest.fail(f"{path.relative_to(ROOT)} imports gin, which only recipes/ may")


def run_fresh(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_training_imports_load_no_tensorflow():
    modules = "t5x_code.models.decoder, t5x_code.training.loop, t5x_code.objectives.span_corruption, "
    modules += "t5x_code.data.loader, t5x_code.recipes.run"
    loaded = run_fresh(
        f"import sys, {modules}; print([m for m in ('tensorflow', 'seqio', 'torch') if m in sys.modules])"
    )
    assert loaded == "[]"


def test_a_runs_curves_load_no_torch_and_leave_it_to_be_imported(tmp_path):
    """tensorboardX imports it by itself, for seconds before the first step."""
    pytest.importorskip("torch")
    code = "import sys; from pathlib import Path; from t5x_code.training.tensorboard_file import TensorBoardFile; "
    code += f"TensorBoardFile(Path({str(tmp_path)!r}), 0).write(1, {{'loss': 2.0}}); "
    code += "print('torch' in sys.modules); import torch; print(torch.ones(1).item())"
    assert run_fresh(code).split() == ["False", "1.0"]


def test_a_bucket_is_reached_without_tensorflow_where_that_is_installed_too():
    code = "import t5x_code; from etils import epath; print(type(epath.Path('gs://bucket/x')._backend).__name__)"
    assert run_fresh(code) == "_FileSystemSpecBackend"


@pytest.mark.parametrize("room", NO_JAX)
def test_plain_rooms_load_no_jax(room):
    files = [path.stem for path in (PACKAGE / room).glob("*.py") if path.stem != "__init__"]
    modules = ", ".join(f"t5x_code.{room}.{stem}" for stem in files)
    loaded = run_fresh(f"import sys, {modules}; print([m for m in ('jax', 'tensorflow') if m in sys.modules])")
    assert loaded == "[]"


def test_a_commands_help_waits_for_no_library():
    for path in sorted((ROOT / "launch").glob("*.py")):
        run = (
            f"import runpy, sys; sys.argv = [{str(path)!r}, '--help']; runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        heavy = "[m for m in ('jax', 'tensorflow', 'torch', 'transformers') if m in sys.modules]"
        shown = run_fresh(f"import atexit, sys; atexit.register(lambda: print({heavy})); {run}")
        assert path.name in shown and shown.endswith("\n[]"), shown


def test_no_script_bears_a_standard_library_name():
    scripts = [path.stem for folder in ("launch", "benchmarks") for path in (ROOT / folder).glob("*.py")]
    assert scripts and not set(scripts) & set(sys.stdlib_module_names)


def test_no_file_is_a_drawer():
    names = {path.stem for path in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "common", "misc"}
