"""The one table of evaluations by name. A new one is a function of a `Request` and one line here."""

from t5x_code.errors import UserError
from t5x_code.evaluation.completion import evaluate_completion
from t5x_code.evaluation.functional import (
    evaluate_humaneval,
    evaluate_incremental,
    evaluate_infilling,
    evaluate_mbpp,
    evaluate_multilingual,
)
from t5x_code.evaluation.logic_equivalence import ALL_PROBLEMS, VERDICT, evaluate_logic_equivalence
from t5x_code.evaluation.protocols import resolve_protocol
from t5x_code.evaluation.request import Evaluation, Request, Results
from t5x_code.evaluation.sandbox.isolation import choose_isolation
from t5x_code.evaluation.teacher_forced import evaluate_loss

EVALUATIONS: dict[str, Evaluation] = {
    "humaneval": evaluate_humaneval,
    "mbpp": evaluate_mbpp,
    "infilling": evaluate_infilling,
    "incremental": evaluate_incremental,
    "multilingual": evaluate_multilingual,
    "completion": evaluate_completion,
    "logic_equivalence": evaluate_logic_equivalence,
    "loss": evaluate_loss,
}

WRITES_PROGRAMS = ("humaneval", "mbpp", "infilling", "incremental", "multilingual")
OF_DRAWS = ("temperature", "top_p", "top_k", "num_samples")
OF_PROGRAMS = ("protocol", "samples", *OF_DRAWS)  # flags of these alone

# What `--variant` may be; an evaluation that is not here has none.
VARIANTS: dict[str, tuple[str, ...]] = {
    "mbpp": ("all", "functions"),
    "incremental": ("humaneval", "mbpp"),
    "logic_equivalence": (ALL_PROBLEMS, VERDICT),
}


def evaluate(request: Request) -> Results:
    """Runs the evaluation that the request names.

    Raises:
        UserError: as `check_request`, or the request lacks what the evaluation needs.
    """
    check_request(request)
    return EVALUATIONS[request.name](request)


def check_request(request: Request) -> None:
    """Finds what is wrong with a request before its models are there.

    Raises:
        UserError: there is no evaluation of that name, variant or protocol, the request has what it ignores, or it
            runs programs, which was not allowed or does not work here.
    """
    if request.name not in EVALUATIONS:
        raise UserError(f"there is no evaluation {request.name!r}; choose one of {', '.join(EVALUATIONS)}")
    variants = VARIANTS.get(request.name, ())
    if request.variant is not None and request.variant not in variants:
        known = f"choose one of {', '.join(variants)}" if variants else "it has none; leave out --variant"
        raise UserError(f"--eval={request.name} has no variant {request.variant!r}; {known}")
    _refuse_ignored(request)
    if request.protocol is not None:
        resolve_protocol(request.protocol, request.sampled)
    if request.name in WRITES_PROGRAMS:
        choose_isolation(request.execution)


def _refuse_ignored(request: Request) -> None:
    """Raises a UserError that names a flag which was given and would do nothing."""
    given = vars(request.sampled) | vars(request)
    ignored = [] if request.name in WRITES_PROGRAMS else list(OF_PROGRAMS)
    ignored += {"loss": ["limit", "max_new_tokens"], "logic_equivalence": ["max_new_tokens"]}.get(request.name, [])
    for name in ignored:
        if given[name] is not None:
            raise UserError(f"--{name} does nothing in --eval={request.name}; leave it out")
    for name in (*OF_DRAWS, "max_new_tokens") if request.samples is not None else ():
        if given[name] is not None:
            raise UserError(f"--{name} does nothing to --samples, which are drawn already; leave it out")
