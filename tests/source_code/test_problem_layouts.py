"""CodeNet and APPS, laid out as published, become problems that `read_problems` reads."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from t5x_code.errors import UserError
from t5x_code.source_code.problem_layouts import LAYOUTS
from t5x_code.source_code.problems import Problem, read_problems

ROOT = Path(__file__).resolve().parents[2]
COLUMNS = ["submission_id", "problem_id", "user_id", "date", "language", "original_language", "filename_ext", "status"]


@pytest.fixture
def codenet(tmp_path):
    """A folder with one problem, four languages and every reason to leave a submission out."""
    root = tmp_path / "Project_CodeNet"
    submissions = [
        ("s1", "Python", "py", "Accepted", "x = 1\n"),
        ("s2", "Python", "py", "Accepted", "x = 2\r\n"),
        ("s3", "Python", "py", "Wrong Answer", "x = 3\n"),
        ("s4", "C++", "cpp", "Accepted", "int main() {}\n"),
        ("s5", "COBOL", "cob", "Accepted", "STOP RUN.\n"),
        ("s6", "Python", "py", "Accepted", None),
    ]
    (root / "metadata").mkdir(parents=True)
    with (root / "metadata" / "p00001.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="0")
        writer.writeheader()
        for name, language, extension, status, text in submissions:
            row = {"submission_id": name, "language": language, "filename_ext": extension, "status": status}
            writer.writerow(row)
            path = root / "data" / "p00001" / language / f"{name}.{extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if text is not None:
                path.write_bytes(text.encode())
    return root


def test_codenet(codenet):
    assert list(LAYOUTS["codenet"](codenet)) == [
        Problem("codenet_p00001::cpp", "cpp", ("int main() {}\n",)),
        Problem("codenet_p00001::python", "python", ("x = 1\n", "x = 2\n")),
    ]
    assert {problem.group for problem in LAYOUTS["codenet"](codenet)} == {"codenet_p00001"}


def test_apps_both_ways(tmp_path):
    folder = tmp_path / "train" / "0007"
    folder.mkdir(parents=True)
    (folder / "solutions.json").write_text(json.dumps(["a = 1", "b = 2", "\ud800"]))
    rows = [{"problem_id": 3, "solutions": json.dumps(["c = 3", None])}, {"problem_id": 4, "solutions": ""}]
    rows += [{"problem_id": 5, "solutions": {"x = 1": 2}}]
    (tmp_path / "test.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    assert list(LAYOUTS["apps"](tmp_path)) == [
        Problem("apps_train_0007", "python", ("a = 1", "b = 2")),
        Problem("apps_test_3", "python", ("c = 3",)),
        Problem("apps_test_4", "python", ()),
        Problem("apps_test_5", "python", ()),
    ]


def test_a_line_without_its_fields_is_named(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"problem_id": 1}\n')
    with pytest.raises(UserError, match=r"train\.jsonl: a line lacks the field 'solutions'"):
        list(LAYOUTS["apps"](tmp_path))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_folder_is_named(layout, tmp_path):
    with pytest.raises(UserError, match="is no "):
        list(LAYOUTS[layout](tmp_path))


def test_the_command_writes_what_is_read(codenet, tmp_path):
    output = tmp_path / "problems.jsonl.gz"
    command = [sys.executable, str(ROOT / "launch/problems.py"), "--layout=codenet"]
    command += [f"--source={codenet}", f"--output={output}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    anothers = output.with_name("problems.jsonl.gz.partial")  # of a process that writes the same file
    anothers.write_text("half")
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert list(read_problems(output)) == [Problem("codenet_p00001::python", "python", ("x = 1\n", "x = 2\n"))]
    assert anothers.read_text() == "half"
    bad = subprocess.run([*command[:-2], f"--source={tmp_path}", command[-1]], capture_output=True, env=environment)
    assert bad.returncode == 2 and b"is no CodeNet" in bad.stderr and b"Traceback" not in bad.stderr
    shutil.rmtree(codenet / "data")
    bad = subprocess.run([*command[:-1], f"--output={tmp_path / 'none.jsonl'}"], capture_output=True, env=environment)
    assert bad.returncode == 2 and b"no problem there has 2 solutions" in bad.stderr
    assert not (tmp_path / "none.jsonl").exists()


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--max_solutions=-3", b"--max_solutions=-3"),
        ("--max_solutions=1", b"--max_solutions=1 is less than --min_solutions=2"),
        ("--min_solutions=0", b"--min_solutions=0"),
        ("--output=.", b"output file . is a folder"),
    ],
)
def test_numbers_of_solutions_and_outputs_that_cannot_be_are_refused(tmp_path, flag, says):
    command = [sys.executable, str(ROOT / "launch/problems.py"), "--layout=apps", f"--source={tmp_path}"]
    (tmp_path / "train.jsonl").write_text('{"problem_id": 1, "solutions": ["a = 1", "b = 2", "c = 3", "d = 4"]}')
    command += [f"--output={tmp_path / 'out.jsonl'}", flag]
    ended = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert ended.returncode == 2 and says in ended.stderr and not (tmp_path / "out.jsonl").exists()
