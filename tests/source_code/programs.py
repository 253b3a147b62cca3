"""Programs for the tests of transformations: functions of the standard library, and one program per language."""

import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path

from t5x_code.source_code.functions import extract_functions

PROGRAMS = {
    "python": "def f(n):\n    # small\n    if n < 2:\n        return n\n    return f(n - 1) + f'{n!r}'\n",
    "c": '#include <stdio.h>\nint main(void) {\n  char *s = "a b"; /* c */\n  for (int i = 0; i < 3; i++) puts(s);\n'
    "  return 0;\n}\n",
    "cpp": "#include <vector>\nint main() {\n  std::vector<int> v;\n  for (auto x : v) { v.push_back(x); }\n"
    "  return 0;\n}\n",
    "csharp": "class A {\n  int F(int n) {\n    if (n < 2) return n;\n    return F(n - 1);\n  }\n}\n",
    "go": 'package main\nfunc f(n int) int {\n\tif n < 2 { return n }\n\tg("a b", []int{1, n})\n\treturn f(n-1)\n}\n',
    "java": "class A {\n  int f(int n) { // small\n    if (n < 2) return n;\n    return f(n - 1);\n  }\n}\n",
    "javascript": "function f(n) {\n  if (n < 2) return `ä ${n}`;\n  return f(n - 1);\n}\n",
    "php": "<?php\nfunction f($n) {\n  if ($n < 2) return $n;\n  return f($n - 1);\n}\n",
    "ruby": "def f(n)\n  return n if n < 2\n  f(n - 1)\nend\n",
    "rust": "fn f(n: u32) -> u32 {\n    if n < 2 { return n; }\n    f(n - 1)\n}\n",
    "typescript": "function f(n: number): string {\n  if (n < 2) return 'a b';\n  return f(n - 1);\n}\n",
}


def library_functions(count: int) -> Iterator[str]:
    """Functions and methods of the standard library as programs of their own."""
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")):
        source = path.read_text(encoding="utf-8", errors="replace")
        for span in extract_functions(source):
            line = source.rfind("\n", 0, span.start) + 1
            if source[line : span.start].isspace() or line == span.start:
                program = textwrap.dedent(source[line : span.body_end])
                if not extract_functions(program):  # a string's line at the margin holds the dedent back
                    continue
                yield program
                count -= 1
                if not count:
                    return
