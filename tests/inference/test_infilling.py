"""Prompts against CodeGen2's documented format, and what is cut off a model's answer."""

import dataclasses

import pytest
from byte_model import ByteTokenizer

from t5x_code.errors import UserError
from t5x_code.inference import infilling
from t5x_code.inference.generation import GenerationConfig
from t5x_code.inference.infilling import TextModel, at_strings, complete, infill, infill_prompt, left_to_right_prompt
from t5x_code.models.config import TransformerConfig
from t5x_code.tokens.special_tokens import FimTokens, SpecialTokens

EOD, SEP, EOM, MASK_1, MASK_2 = 256, 257, 258, 259, 260
FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX = 261, 262, 263


MODEL = TextModel(TransformerConfig(), None, ByteTokenizer(), begin=(EOD,))
IMPORTED = dataclasses.replace(MODEL, begin=())


@pytest.fixture
def answer(monkeypatch):
    """Makes the model say given texts, followed by given control tokens; keeps what it was asked."""
    asked = {}

    def set_answer(text, *control):
        def generate(config, params, prompts, generation, *, should_stop, **_):
            tokens = [*text.encode(), *control]
            asked.update(prompts=prompts, generation=generation, stops=should_stop and should_stop(0, tokens))
            return [[tokens] for _ in prompts]

        monkeypatch.setattr(infilling, "generate", generate)
        monkeypatch.setattr(infilling, "decoding_params", lambda *_: None)  # there are none to lay out
        return asked

    return set_answer


def test_prompts_follow_the_model_card():
    assert infill_prompt(MODEL, "ab", "c").tolist() == [EOD, 97, 98, MASK_1, 99, EOD, SEP, MASK_1]
    assert infill_prompt(IMPORTED, "", "c").tolist() == [MASK_1, 99, EOD, SEP, MASK_1]
    assert left_to_right_prompt(MODEL, "ab").tolist() == [EOD, 97, 98]
    assert left_to_right_prompt(IMPORTED, "ab").tolist() == [97, 98]


def test_the_real_tokenizer_keeps_control_texts_out_of_prompts(shared_data):
    tokenizer = pytest.importorskip("t5x_code.tokens.tokenizer").Tokenizer.load(str(shared_data / "codegen2_tokenizer"))
    model = dataclasses.replace(IMPORTED, tokenizer=tokenizer)
    tokens = infill_prompt(model, "x = '<mask_1>'\n", "\ny = '<|endoftext|><sep><eom>'").tolist()
    assert [token for token in tokens if token in (50256, 50299, 50300, 51199)] == [51199, 50256, 50299, 51199]
    assert tokens[-3:] == [50256, 50299, 51199]


def test_an_infill_ends_at_eom_and_a_completion_at_eod(answer):
    asked = answer("middle", EOM)
    [[completion]] = infill(MODEL, [("a", "b")], GenerationConfig(stop_tokens=(7,)))
    assert (completion.text, completion.ended_by, completion.tokens[-1]) == ("middle", "stop_token", EOM)
    assert set(asked["generation"].stop_tokens) == {7, EOM, EOD}
    assert set(asked["generation"].forbidden_tokens) == {SEP, MASK_1, MASK_2}
    infill(MODEL, [("a", "b")], GenerationConfig(), at_eod=False)
    assert set(asked["generation"].stop_tokens) == {EOM} and EOD not in asked["generation"].forbidden_tokens
    asked = answer("rest", EOD)
    assert complete(MODEL, ["a"], GenerationConfig())[0][0].text == "rest"
    assert set(asked["generation"].stop_tokens) == {EOD}
    assert set(asked["generation"].forbidden_tokens) == {SEP, EOM, MASK_1, MASK_2}


def test_the_first_stop_string_cuts_the_text(answer):
    asked = answer("x = 1\nclass A: ...\ndef f(): ...")
    [[completion]] = complete(MODEL, ["a"], GenerationConfig(), stop=at_strings(["\ndef", "\nclass"]))
    assert (completion.text, completion.ended_by, asked["stops"]) == ("x = 1", "stop_rule", True)
    [[completion]] = complete(MODEL, ["a"], GenerationConfig(), stop=at_strings(["\nif"]))
    assert (completion.text[-3:], completion.ended_by, asked["stops"]) == ("...", "length", False)


def test_a_stop_string_that_spells_a_control_token_is_that_token(answer):
    model = dataclasses.replace(MODEL, control_ids={"<file_sep>": 264, "<repo_name>": 265})
    stop = at_strings(["\ndef", "<file_sep>"])
    asked = answer("rest", 264)
    for [[written]] in (
        complete(model, ["a"], GenerationConfig(), stop=stop),
        infill(model, [("a", "b")], GenerationConfig(), stop=stop),
    ):
        assert (written.text, written.ended_by) == ("rest", "stop_token")
        assert 264 in asked["generation"].stop_tokens and 265 not in asked["generation"].stop_tokens
    answer("x = 1\ndef f():", 264)
    assert complete(model, ["a"], GenerationConfig(), stop=stop)[0][0].text == "x = 1"
    answer("x <file_sep>", EOD)  # as another tokenizer writes it
    assert complete(MODEL, ["a"], GenerationConfig(), stop=stop)[0][0].text == "x "


@pytest.mark.parametrize("has_masks", [False, True])
def test_starcoders_tokens_ask_where_there_are_no_masks_and_are_never_written(answer, has_masks):
    class WithFim(ByteTokenizer):
        special_tokens = dataclasses.replace(
            ByteTokenizer.special_tokens if has_masks else SpecialTokens(EOD),
            fim=FimTokens(FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX),
        )

    model = dataclasses.replace(MODEL, tokenizer=WithFim())
    of_starcoder = [EOD, FIM_PREFIX, 97, 98, FIM_SUFFIX, 99, FIM_MIDDLE]
    asks = infill_prompt(MODEL, "ab", "c").tolist() if has_masks else of_starcoder
    assert infill_prompt(model, "ab", "c").tolist() == asks
    asked = answer("middle", EOD)
    [[completion]] = infill(model, [("ab", "c")], GenerationConfig())
    assert (completion.text, completion.ended_by) == ("middle", "stop_token")
    kept = {SEP, MASK_1, MASK_2} if has_masks else set()
    assert set(asked["generation"].stop_tokens) == ({EOM, EOD} if has_masks else {EOD})
    assert set(asked["generation"].forbidden_tokens) == {FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX} | kept
    asked = answer("rest", EOD)
    complete(model, ["a"], GenerationConfig())
    assert set(asked["generation"].forbidden_tokens) >= {FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX}


def test_a_tokenizer_without_masks_completes_but_does_not_infill(answer):
    class NoMasks(ByteTokenizer):
        special_tokens = SpecialTokens(eod=EOD)

    model = dataclasses.replace(MODEL, tokenizer=NoMasks())
    for asks in (lambda: infill_prompt(model, "a", "b"), lambda: infill(model, [("a", "b")], GenerationConfig())):
        with pytest.raises(UserError, match="it completes, but does not infill"):
            asks()
    answer("rest", EOD)
    assert infill(model, [], GenerationConfig()) == []  # a prompt file may have no line to infill
