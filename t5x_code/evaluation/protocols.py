"""How answers are drawn and where they end, by name: what each paper did."""

import dataclasses
import re

from t5x_code.errors import UserError
from t5x_code.evaluation.request import Sampled
from t5x_code.inference.infilling import StopRule, at_strings

CODEX_STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # arXiv 2107.03374, section 2.1
# Of the BigCode evaluation harness, for HumanEval.
BIGCODE_STOPS = ("\nclass", "\ndef", "\n#", "\n@", "\nprint", "\nif", "\n```", "<file_sep>")
MBPP_STOPS = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")  # of the same harness
_CODEGEN_ENDS = re.compile(r"^#|<\|endoftext\|>|^'''|^\"\"\"|\n\n\n", re.MULTILINE)


def codegen_end(text: str) -> int | None:
    """Where CodeGen (arXiv 2203.13474) cuts a completion, in its released sampling code: before the second outermost
    `print`, then before the second outermost `def`, then before a comment, docstring or two blank lines."""
    end = None
    for word in ("print", "def"):
        found = list(re.finditer(f"^{word}", text[:end], re.MULTILINE))
        end = found[1].start() if len(found) > 1 else end
    found = _CODEGEN_ENDS.search(text[:end])
    return found.start() if found else end


# What arXiv 2402.05783 puts before every program, as a model of pairs cannot import: its harness' own, without numpy.
_IMPORTED = (
    "math",
    "re",
    "sys",
    "copy",
    "datetime",
    "itertools",
    "collections",
    "heapq",
    "functools",
    "hashlib",
    "string",
)
PAIR_PREAMBLE = "".join(f"import {name}\n" for name in _IMPORTED) + "from typing import *\nfrom collections import *\n"
_UNINDENTED = re.compile(r"\n(?=\S)")


def function_end(text: str) -> int | None:
    """Where a function that a prompt has begun ends: before the first line that is not indented (arXiv 2402.05783)."""
    found = _UNINDENTED.search(text)
    return found.end() if found else None


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Draws, lengths and stops."""

    temperature: float
    top_p: float
    num_samples: int
    stop: StopRule | None
    max_new_tokens: int = 256
    ks: tuple[int, ...] = (1, 10, 100)
    preamble: str = ""  # what programs in Python begin with, that the model is not shown
    strips_prompts: bool = False  # white space at both ends; the newline before a body is left to the model


_codex, _bigcode = at_strings(CODEX_STOPS), at_strings(BIGCODE_STOPS)

PROTOCOLS: dict[str, Protocol] = {
    "greedy": Protocol(0.0, 1.0, 1, _codex),
    "codex": Protocol(0.8, 0.95, 200, _codex, 512),
    # pass@1, pass@10 and pass@100 are each taken at their own temperature.
    "codegen2_pass1": Protocol(0.2, 0.95, 200, codegen_end, ks=(1,)),
    "codegen2_pass10": Protocol(0.6, 0.95, 200, codegen_end, ks=(10,)),
    "codegen2_pass100": Protocol(0.8, 0.95, 200, codegen_end, ks=(100,)),
    "bigcode": Protocol(0.2, 0.95, 20, _bigcode, 512, ks=(1, 10), strips_prompts=True),  # the harness's task humaneval
    "mbpp": Protocol(0.0, 1.0, 1, at_strings(MBPP_STOPS)),
    "modality_relative": Protocol(0.95, 0.8, 200, function_end, 512, preamble=PAIR_PREAMBLE),
    "infill": Protocol(0.0, 1.0, 1, None),  # ends at <eom> alone (CodeGen2 model card)
}


def resolve_protocol(name: str, sampled: Sampled) -> Protocol:
    """The protocol of a name, with what the request says otherwise.

    Raises:
        UserError: there is none of that name, or the samples are too few for all that it estimates.
    """
    if name not in PROTOCOLS:
        raise UserError(f"there is no protocol {name!r}; choose one of {', '.join(PROTOCOLS)}")
    fields = ("temperature", "top_p", "num_samples", "max_new_tokens")
    given = {field: getattr(sampled, field) for field in fields if getattr(sampled, field) is not None}
    protocol = dataclasses.replace(PROTOCOLS[name], **given)
    fewest = min(protocol.ks)
    if protocol.num_samples < fewest:
        raise UserError(
            f"the protocol {name} estimates pass@{fewest}, for which num_samples must be {fewest} or more; it is "
            f"{protocol.num_samples}"
        )
    return protocol
