"""Lines that are asked for: what stands before them, and where an answer ends."""

import dataclasses

import pytest

from t5x_code.errors import UserError
from t5x_code.evaluation import completion as line_completion
from t5x_code.evaluation.registry import evaluate
from t5x_code.evaluation.request import Request, Sampled


def test_lines_need_room_for_what_stands_before_them(model):
    documents = ["import os\n\ndef f(path):\n    return os.stat(path)\n"]
    small = dataclasses.replace(model, config=dataclasses.replace(model.config, max_length=48))

    def of_lines(**sampled):
        request = Request("completion", model=small, held_out=lambda: iter(documents), show_progress=False)
        return evaluate(dataclasses.replace(request, sampled=Sampled(**sampled)))

    assert of_lines()["num_problems"] == 2
    with pytest.raises(UserError, match="max_new_tokens 48 leaves no room for a prompt in the model's context of 48"):
        of_lines(max_new_tokens=48)


def test_a_line_is_asked_for_by_what_stands_before_it(model, monkeypatch):
    documents = ["import os\n\ndef f(path):\n    return os.stat(path)\n" + f"x_{n} = {n}\n" for n in range(3)]
    lines = list(line_completion.find_lines(iter(documents), model, room=60, seed=0, most=5))
    again = list(line_completion.find_lines(iter(documents), model, room=60, seed=0, most=5))
    assert lines == again and len(lines) == 5
    for problem in lines:
        assert any(f"{problem.prompt}\n" in d and problem.line in d.split(problem.prompt, 1)[1] for d in documents)
    narrow = list(line_completion.find_lines(iter(documents), model, room=12, seed=0, most=5))
    assert all(len(problem.prompt) <= 12 for problem in narrow)

    def knows_it_all(model, prompts, generation, *, stop, on_answers):
        texts = [f"\n\n  {problem.line}\nmore" for problem in lines]
        return [[line_completion.Completion(text[: stop(text)], (), "stop_rule")] for text in texts]

    monkeypatch.setattr(line_completion, "complete", knows_it_all)
    request = Request("completion", model=model, limit=5, held_out=lambda: iter(documents), show_progress=False)
    assert evaluate(request)["metrics"] == {"exact_match": 1.0, "edit_similarity": 1.0}


def test_lines_are_drawn_anew_in_each_document(model):
    document = "".join(f"value_{number} = {number}\n" for number in range(20))
    lines = line_completion.find_lines(iter([document] * 6), model, room=60, seed=0, most=12)
    assert len({problem.line for problem in lines}) > 6


def test_the_next_line_begins_after_the_prompts_own():
    assert line_completion.next_line(" # a comment\n\n    x = 1\ny = 2") == "x = 1"
    assert line_completion.next_line("no line ends") == ""
    assert line_completion.after_next_line("\n    x = 1") is None
    assert line_completion.after_next_line("\n    x = 1\ny") == len("\n    x = 1\n")
