"""Prompt files: what is refused, what order comes out, and that nothing half written is left."""

import json
import os

import numpy as np
import pytest
from etils import epath

from t5x_code.errors import UserError
from t5x_code.inference import prompt_file
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import Completion, TextModel
from t5x_code.inference.prompt_file import (
    PromptLine,
    check_lines_fit,
    complete_lines,
    read_prompt_file,
    write_completions,
)
from t5x_code.models.config import TransformerConfig
from t5x_code.output_file import check_writable, write_whole
from t5x_code.tokens.special_tokens import SpecialTokens


@pytest.mark.parametrize(
    "line",
    [
        '{"prompt": "x"',
        "[1]",
        "3",
        '{"prompt": 3}',
        '{"prefix": "a"}',
        '{"prompt": "a", "suffix": "b"}',
        '{"text": ""}',
        '{"prompt": "a", "id": ' + "1" * 5000 + "}",
        '{"prompt": "a", "id": ' + "[" * 100_000 + "}",
        '{"prompt": "\\ud83d"}',
        '{"prefix": "a", "suffix": "\\udc80"}',
    ],
)
def test_a_bad_line_is_named_by_its_number(tmp_path, line):
    path = tmp_path / "prompts.jsonl"
    path.write_text(f'{{"prompt": "fine"}}\n\n{line}\n')
    with pytest.raises(UserError, match=r"prompts\.jsonl line 3 "):
        read_prompt_file(str(path))


@pytest.mark.parametrize("content", [None, b"", b"\n\n", b"\xff\xfe{}"])
def test_a_file_without_prompts_is_refused(tmp_path, content):
    path = tmp_path / "prompts.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"prompts\.jsonl"):
        read_prompt_file(str(path))


def test_mixed_lines_keep_their_order_and_fields(tmp_path, monkeypatch):
    def answer(kind):
        def respond(model, prompts, generation, *, stop, names, numbers, skip, on_answers):
            assert [f"line {number + 1}" for number in numbers] == [name[-6:] for name in names]  # draws of their own
            for at, (prompt, name) in enumerate(zip(prompts, names, strict=True)):
                if at not in skip:
                    on_answers({at: [Completion(f"{kind} {prompt} of {name[-6:]}", (), "length")]})

        return respond

    monkeypatch.setattr(prompt_file, "complete", answer("complete"))
    monkeypatch.setattr(prompt_file, "infill", answer("infill"))
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prefix": "a", "suffix": "ü\u2028", "id": 5}\n{"prompt": "c"}\n{"prefix": "d", "suffix": "e"}')
    lines = read_prompt_file(str(path))
    texts = {}
    complete_lines(None, lines, GenerationConfig(), None, {2}, texts.update)
    assert [*texts] == [1, 0]
    complete_lines(None, lines, GenerationConfig(), None, {0, 1}, texts.update)
    write_completions(str(tmp_path / "out.jsonl"), lines, [texts[at] for at in range(3)])
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record["completions"][0][:8] for record in records] == ["infill (", "complete", "infill ("]
    assert [record["completions"][0][-6:] for record in records] == ["line 1", "line 2", "line 3"]
    assert records[0]["id"] == 5 and records[0]["suffix"] == "ü\u2028"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.jsonl", "prompts.jsonl"]


class CharacterTokenizer:
    """One token per character."""

    special_tokens = SpecialTokens(eod=1, sep=2, eom=3, masks=(4,))

    def encode(self, text):
        return np.full(len(text), 9, np.int32)

    encode_prompt, encode_continuation = encode, encode


@pytest.mark.parametrize("record", [{"prompt": "x" * 10}, {"prefix": "x" * 5, "suffix": "x"}])
def test_a_line_that_is_too_long_is_named_before_any_work(record):
    """Either line makes 11 tokens: eod and ten, or eod, six and the four of the infill format."""
    model = TextModel(TransformerConfig(max_length=16), None, CharacterTokenizer(), begin=(1,))
    lines = [PromptLine("p.jsonl line 1", {"prompt": "x"}), PromptLine("p.jsonl line 2", record)]
    check_lines_fit(model, lines, max_new_tokens=5)
    with pytest.raises(UserError, match=r"p\.jsonl line 2 has 11 tokens.* 6 .* 16;"):
        check_lines_fit(model, lines, max_new_tokens=6)


def test_an_output_that_cannot_be_written_is_found_out_first(tmp_path):
    kept = tmp_path / "out.jsonl"
    kept.write_text("old")
    check_writable(str(kept))
    assert kept.read_text() == "old" and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(UserError, match="cannot be written"):
        check_writable(str(tmp_path / "absent" / "out.jsonl"))
    with pytest.raises(UserError, match="is a folder; give the name of a file"):
        check_writable(str(tmp_path))
    os.mkfifo(pipe := tmp_path / "pipe")  # like /dev/null, whose place the file would take
    with pytest.raises(UserError, match="is a device or pipe; give the name of a file"):
        check_writable(str(pipe))


def test_an_output_that_fails_leaves_nothing_half_written(tmp_path):
    folder = tmp_path / "out.json"
    folder.mkdir()
    with pytest.raises(UserError, match=r"out\.json cannot be written"):
        write_whole(str(folder), "text")
    assert list(tmp_path.iterdir()) == [folder]


def test_pairs_of_surrogates_are_characters(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "\\ud83d\\ude00"}\n')
    assert read_prompt_file(str(path))[0].record == {"prompt": "\U0001f600"}


def test_what_is_being_written_is_not_touched_by_another_process(tmp_path, monkeypatch):
    """It tries whether it can write there as well."""
    output, path_type = tmp_path / "out.jsonl", type(epath.Path(tmp_path))
    replace = path_type.replace

    def while_another_begins(path, target):
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: 0)
            check_writable(str(output))
        return replace(path, target)

    monkeypatch.setattr(path_type, "replace", while_another_begins)
    write_whole(str(output), "text")
    assert output.read_text() == "text" and len(list(tmp_path.iterdir())) == 1
