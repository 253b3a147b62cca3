"""How answers are drawn and where they end, by the names of those who did so."""

import pytest

from t5x_code.errors import UserError
from t5x_code.evaluation.protocols import PROTOCOLS, codegen_end, function_end, resolve_protocol
from t5x_code.evaluation.request import Sampled


def test_codegen_cuts_as_its_released_code_does():
    # The cases of CodeGen's own test_truncate.
    text = "\nif len_a > len_b:\n    result = a\nelse:\n    result = b\n\n\n\n#"
    assert text[: codegen_end(text)] == "\nif len_a > len_b:\n    result = a\nelse:\n    result = b"
    assert codegen_end("    return 1\n") is None
    twice = "    return 1\ndef a():\n    pass\ndef b():\n    pass\n"
    assert twice[: codegen_end(twice)] == "    return 1\ndef a():\n    pass\n"
    printed = "    return 1\nprint(1)\nprint(2)\n"
    assert printed[: codegen_end(printed)] == "    return 1\nprint(1)\n"


def test_a_function_of_a_pair_ends_before_a_line_that_is_not_indented():
    text = "    x = [\n        1]\n\n    # a note\n    return x\n\n"
    assert function_end(text) is None
    for more in ("import re\n", "x = f()\n", "# a note\n", "for"):
        assert text[: function_end(text + more)] == text
    imported = {}
    exec(PROTOCOLS["modality_relative"].preamble, imported)
    assert {"math", "re", "heapq", "List", "Counter"} <= imported.keys()


def test_protocols_by_name():
    codegen2 = [PROTOCOLS[f"codegen2_pass{k}"] for k in (1, 10, 100)]
    assert [p.temperature for p in codegen2] == [0.2, 0.6, 0.8] and {p.top_p for p in codegen2} == {0.95}
    assert (PROTOCOLS["modality_relative"].top_p, PROTOCOLS["modality_relative"].temperature) == (0.8, 0.95)
    assert resolve_protocol("greedy", Sampled(num_samples=3, temperature=0.5)).num_samples == 3
    with pytest.raises(UserError, match="choose one of greedy"):
        resolve_protocol("best", Sampled())
    with pytest.raises(UserError, match="codegen2_pass10 estimates pass@10, for which num_samples must be 10 or more"):
        resolve_protocol("codegen2_pass10", Sampled(num_samples=2))
