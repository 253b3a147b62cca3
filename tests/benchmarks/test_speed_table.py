"""The README's table of speed says what was measured, on which machine, and nothing else."""

import json
import sys
from pathlib import Path

import pytest

from t5x_code.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import run_all  # noqa: E402
import turns  # noqa: E402
from headlines import HEADLINES  # noqa: E402


def write(folder, name, results, processor="One CPU", devices=("cpu",)):
    hardware = {"processor": processor, "cores": 2, "devices": devices}
    record = {"hardware": hardware, "versions": {"jax": "0.10.2"}, "results": results}
    (folder / f"{name}.json").write_text(json.dumps(record))


def test_every_run_has_its_line_and_every_script_is_there():
    assert run_all.RUNS.keys() == HEADLINES.keys()
    assert all((ROOT / "benchmarks" / command[0]).exists() for command in run_all.RUNS.values())


def test_a_table_for_each_machine_of_what_was_measured(tmp_path):
    write(tmp_path, "caching", {"bytes": 2e7, "median_seconds": {"build_store": 10.0}, "ratio": 1.25})
    step = {"ours": {"speed_ratio": 1.5, "memory_ratio": 0.5}, "transformers": {}}
    write(tmp_path, "train_step_float32", step, devices=("NVIDIA H200",) * 2)
    assert run_all.tables(tmp_path).splitlines() == [
        "2 x NVIDIA H200, jax 0.10.2:",
        "",
        "| what | ours | beside |",
        "| --- | --- | --- |",
        "| training step, 71 M, float32 | 1.50x the speed, 0.50x the memory | Hugging Face CodeGen |",
        "",
        "One CPU, jax 0.10.2:",
        "",
        "| what | ours | beside |",
        "| --- | --- | --- |",
        "| making a token store | 2.0 MB/s, 1.25x the time | bare tokenizing |",
    ]


def test_only_the_text_between_the_markers_is_replaced(tmp_path):
    file = tmp_path / "page.md"
    page = "before\n<!-- benchmarks/fits.py begins -->\n{}\n<!-- benchmarks/fits.py ends -->\nafter\n"
    file.write_text(page.format("old"))
    turns.replace_table(file, "fits", "new")
    assert file.read_text() == page.format("new")
    file.write_text("no markers\n")
    with pytest.raises(UserError, match="it lacks the lines"):
        turns.replace_table(file, "fits", "new")
    assert file.read_text() == "no markers\n"


def test_runs_are_chosen_by_script_or_by_output():
    assert list(run_all.chosen(["train_step_350m"])) == ["train_step_350m"]
    assert list(run_all.chosen(["train_step"])) == [name for name in run_all.RUNS if name.startswith("train_step")]
    assert run_all.chosen([]) == run_all.RUNS
    with pytest.raises(UserError, match="--only=attentoin: there is no such benchmark; choose of train_step_float32"):
        run_all.chosen(["attentoin"])
