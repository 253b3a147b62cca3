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
from t5x_code.evaluation.logic_equivalence import evaluate_logic_equivalence
from t5x_code.evaluation.request import Evaluation, Request, Results
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


def evaluate(request: Request) -> Results:
    """Runs the evaluation that the request names.

    Raises:
        UserError: there is none of that name, or the request lacks what it needs.
    """
    if request.name not in EVALUATIONS:
        raise UserError(f"there is no evaluation {request.name!r}; choose one of {', '.join(EVALUATIONS)}")
    return EVALUATIONS[request.name](request)
