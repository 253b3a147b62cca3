"""Names of tasks and mixtures, built in and written as KIND:PATH."""

import json

import pytest

from t5x_code.data.builtin_tasks import MIXTURES, TASKS, declaration_for, spell
from t5x_code.data.declarations import MixtureDeclaration, TaskDeclaration, check_rate
from t5x_code.errors import UserError

SPELLINGS = [
    "python_docs",
    "the_stack:/data/*/*.parquet",
    "jsonl:gs://bucket/a/b-*.jsonl.gz?field=code&modality=text",
    "parquet:/data/x?.parquet?lang=c++,c-sharp",
    "text_files:src/?suffix=.py",
    "tfds:c4/en?split=train",
]


def test_builtin_mixtures_are_equal():
    assert [(task.name, rate) for task, rate in declaration_for("code_nl").rates] == [
        ("python_stdlib", 1.0),
        ("python_docs", 1.0),
    ]
    stack = declaration_for("stack_pile").tasks[0].source.option("lang", "").split(",")
    assert len(stack) == 19
    assert {"c++", "c-sharp", "python", "vue"} < set(stack)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_spelled_task_is_read_back(spelling):
    (task,) = declaration_for(spelling).tasks
    assert declaration_for(spell(task)).tasks == (task,)
    assert TaskDeclaration.from_json(json.loads(json.dumps(task.to_json()))) == task
    assert "/" not in task.name


def test_options_reach_the_source():
    (task,) = declaration_for(SPELLINGS[3]).tasks
    assert task.source.path == "/data/x?.parquet"
    assert task.source.option("lang", "") == "c++,c-sharp"
    assert (task.text_field, task.modality) == ("content", 1)
    (task,) = declaration_for(SPELLINGS[2]).tasks
    assert (task.text_field, task.modality) == ("code", 0)


def test_other_options_make_another_store():
    names = {declaration_for(f"parquet:/d/a.parquet{query}").tasks[0].name for query in ("", "?lang=go", "?field=x")}
    assert len(names) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("code_n1", "did you mean code_nl"),
        ("jsonl:", "has no path"),
        ("csv:/x", "jsonl:PATH"),
        ("parquet:/x?lnag=go", "unknown option lnag; there are lang, field"),
        ("jsonl:/x?modality=prose", "none of text, code"),
    ],
)
def test_bad_names_are_refused(name, message):
    with pytest.raises(UserError, match=message):
        declaration_for(name)


def test_bad_mixtures_are_refused():
    stdlib = TASKS["python_stdlib"]
    with pytest.raises(UserError, match="twice"):
        MixtureDeclaration("m", ((stdlib, 1.0), (stdlib, 2.0)))
    with pytest.raises(UserError, match="no task"):
        MixtureDeclaration("m", ())
    for rate in (0, -1.0, ((5, 1.0), (5, 2.0)), ((0, 0.0),), ((0, -1.0), (9, 1.0)), ()):
        with pytest.raises(UserError, match="rate"):
            check_rate(rate, "here")
    MixtureDeclaration("m", ((stdlib, ((0, 0.0), (100, 1.0))),))
    assert all(mixture.name == name for name, mixture in MIXTURES.items())
