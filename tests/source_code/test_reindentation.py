"""Indentation anew: the same program, four spaces a level."""

from t5x_code.source_code.reindentation import reindent


def test_a_program_of_tabs_and_others_of_two_spaces_have_four():
    wanted = (
        "def f(x):\n    # why\n    if x:\n        y = [1,\n  2]\n        # after\n    return '''a\n\tb\n  c'''\n"
        "\n\nclass A:\n    def g(self): return 1\n"
    )
    for indent in ("\t", "  ", " ", "      "):
        lines = wanted.splitlines(keepends=True)
        for number, level in {2: 1, 3: 1, 4: 2, 6: 2, 7: 1, 13: 1}.items():
            lines[number - 1] = indent * level + lines[number - 1].lstrip()
        assert reindent("".join(lines)) == wanted.replace("        # after", "    # after")


def test_a_form_feed_or_line_separator_ends_no_line():
    assert reindent("def f():\n  return 1\n\x0c\ndef g():\n  return '\u2028'\n") == (
        "def f():\n    return 1\n\x0c\ndef g():\n    return '\u2028'\n"
    )


def test_what_python_cannot_read_stays():
    for text in ("def f(:\n\treturn 1\n", "if x:\n\ty = 1\n  z = 2\n", "x = '''open\n", ""):
        assert reindent(text) == text
