"""Reads the layouts in which collections of problems are published, as `Problem`s.

codenet    Project CodeNet (arXiv 2105.12655): `metadata/pNNNNN.csv` with the columns submission_id, language, status
           and filename_ext, and `data/pNNNNN/LANGUAGE/sNNN.EXT`; accepted submissions alone are taken.
apps       APPS (arXiv 2105.09938): `{train,test}/NNNN/solutions.json`, a list of Python programs; or JSONL files with
           `problem_id` and `solutions`, be it a list or its JSON text.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from t5x_code.errors import UserError
from t5x_code.source_code.problems import GROUP_END, Problem
from t5x_code.surrogates import holds_surrogates

# CodeNet's names of languages, as they are called here.
CODENET_LANGUAGES: Mapping[str, str] = MappingProxyType(
    {
        "C": "c",
        "C#": "csharp",
        "C++": "cpp",
        "Go": "go",
        "Java": "java",
        "JavaScript": "javascript",
        "PHP": "php",
        "Python": "python",
        "Ruby": "ruby",
        "Rust": "rust",
        "TypeScript": "typescript",
    }
)


def read_codenet(folder: Path) -> Iterator[Problem]:
    """One problem per CodeNet problem and language; those of one CodeNet problem share its group.

    Raises:
        UserError: the folder has not that layout.
    """
    tables = sorted((folder / "metadata").glob("p[0-9]*.csv"))
    if not tables:
        raise UserError(f"{folder} is no CodeNet: it has no metadata/p*.csv; unpack Project_CodeNet.tar.gz there")
    for table in tables:
        by_language: dict[str, list[str]] = defaultdict(list)
        with table.open(newline="") as rows:
            for row in csv.DictReader(rows):
                if row["status"] != "Accepted" or row["language"] not in CODENET_LANGUAGES:
                    continue
                name = f"{row['submission_id']}.{row['filename_ext']}"
                text = _text(folder / "data" / table.stem / row["language"] / name)
                if text is not None:
                    by_language[CODENET_LANGUAGES[row["language"]]].append(text)
        for language, solutions in sorted(by_language.items()):
            yield Problem(f"codenet_{table.stem}{GROUP_END}{language}", language, tuple(solutions))


def read_apps(folder: Path) -> Iterator[Problem]:
    """One problem per APPS problem.

    Raises:
        UserError: the folder has neither layout, or a line lacks a field.
    """
    folders = sorted(folder.glob("*/*/solutions.json"))
    files = sorted(folder.glob("*.jsonl"))
    if not folders and not files:
        raise UserError(f"{folder} is no APPS: it has neither train/NNNN/solutions.json nor *.jsonl")
    for path in folders:
        solutions = json.loads(path.read_text(encoding="utf-8"))
        yield Problem(f"apps_{path.parts[-3]}_{path.parts[-2]}", "python", _texts(solutions))
    for path in files:
        with path.open(encoding="utf-8") as lines:
            for fields in (json.loads(line) for line in lines if line.strip()):
                lacking = [name for name in ("problem_id", "solutions") if name not in fields]
                if lacking:
                    raise UserError(f"{path}: a line lacks the field {lacking[0]!r}, which the lines of APPS have")
                solutions = fields["solutions"]
                solutions = json.loads(solutions or "[]") if isinstance(solutions, str) else solutions
                yield Problem(f"apps_{path.stem}_{fields['problem_id']}", "python", _texts(solutions))


LAYOUTS: Mapping[str, Callable[[Path], Iterator[Problem]]] = MappingProxyType(
    {"codenet": read_codenet, "apps": read_apps}
)


def _texts(solutions: Any) -> tuple[str, ...]:
    """The solutions of an APPS problem that are there, and are text: JSON can spell what UTF-8 cannot."""
    listed = solutions if isinstance(solutions, list) else []
    return tuple(solution for solution in listed if isinstance(solution, str) and not holds_surrogates(solution))


def _text(path: Path) -> str | None:
    """A program, or None where the file is missing or not UTF-8."""
    try:
        return path.read_text(encoding="utf-8").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError):
        return None
