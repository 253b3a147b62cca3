"""Programs that try to pass without solving: by ending early, by lying, by reading or patching who tests them."""

from hostile_program import DEAD, WRONG, attempt, hostile

LIES = [
    hostile("os._exit(0)", "import os\nos._exit(0)", DEAD),
    hostile("sys.exit(0)", "import sys\nsys.exit(0)", "SystemExit"),
    hostile("quit()", "quit()", "SystemExit"),
    hostile("os._exit when called", "import os\ndef square(x): os._exit(0)", DEAD),
    hostile("sys.exit when called", "import sys\ndef square(x): sys.exit(0)", "SystemExit"),
    hostile("kill oneself", "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", DEAD),
    hostile("exec another program", "import os\nos.execv('/bin/true', ['true'])", DEAD),
    hostile("print passed", "print('passed')\nprint('PASSED', flush=True)\ndef square(x): return 5", WRONG),
    hostile("redefine check", "def check(candidate): pass\ndef square(x): return 5", WRONG),
    hostile(
        "redefine AssertionError",
        "import builtins\nbuiltins.AssertionError = AssertionError = StopIteration\ndef square(x): return 5",
        WRONG,
    ),
    hostile("swallow exceptions", "import sys\nsys.excepthook = lambda *_: None\ndef square(x): return 5", WRONG),
    hostile(
        "patch builtins",
        """
        import builtins
        for name in ("abs", "all", "any", "len", "sorted", "isinstance", "range"):
            setattr(builtins, name, lambda *_: 0)
        def square(x): return 4
        """,
        "failed",
    ),
    hostile(
        "equal to anything",
        """
        class Anything:
            def __eq__(self, other): return True
            __sub__ = __abs__ = __rsub__ = lambda self, *_: 0
        def square(x): return Anything()
        """,
        "AssertionError|TypeError",
    ),
    hostile(
        "a number equal to anything",
        """
        class Anything(int):
            def __eq__(self, other): return True
            def __sub__(self, other): return 0
            __hash__ = int.__hash__
        def square(x): return Anything(5)
        """,
        WRONG,
    ),
    hostile("atexit", "import atexit, os\natexit.register(os._exit, 0)\ndef square(x): return 5", WRONG),
    hostile(
        "no function but a class with tricks",
        "class square:\n    def __new__(cls, x): return cls\n    def __class_getitem__(cls, x): return 4",
        "AssertionError|TypeError",
    ),
    hostile(
        "patch who serves it",
        """
        import sys
        frame = sys._getframe()
        while frame:
            frame.f_globals["passed"] = True
            for name in ("_answer", "_raised", "serve"):
                if name in frame.f_globals:
                    frame.f_globals[name] = lambda *_: ("value", True, {})
            frame = frame.f_back
        """,
        ".",
    ),
    hostile(
        "write to every descriptor",
        """
        import os
        for descriptor in range(64):
            for text in (b"passed", b'["passed", "", "passed"]', b"\\0\\0\\0\\x18" + b'["passed", "", "passed"]'):
                try:
                    os.set_blocking(descriptor, False)
                    os.write(descriptor, text)
                except OSError:
                    pass
        def square(x): return 5
        """,
        "failed",
    ),
    hostile("garbage on the wire", "import os\nos.write(4, b'\\xff' * 1000)\ndef square(x): return 5", DEAD),
    hostile("close the wire", "import os\nos.closerange(0, 64)\ndef square(x): return 5", DEAD),
    attempt(
        "find the tests in memory",
        """
        import gc, sys
        words = []
        for thing in gc.get_objects():
            text = thing if isinstance(thing, str) else repr(thing)[:5000] if isinstance(thing, (dict, list)) else ""
            if "candidate(" + "2)" in text or "check(" + "square)" in text:
                words.append(text)
        with open("/proc/self/mem", "rb") as memory, open("/proc/self/maps") as maps:
            for line in maps:
                ends, mode = line.split()[:2]
                first, last = (int(end, 16) for end in ends.split("-"))
                if "rw" in mode and last - first < 1 << 26:
                    memory.seek(first)
                    if ("candidate(" + "2)").encode() in memory.read(last - first):
                        words.append(ends)
        reached = bool(words)
        """,
    ),
    attempt(
        "read the parent's memory",
        """
        import os
        with open(f"/proc/{os.getppid()}/mem", "rb") as memory:
            reached = True
        """,
    ),
    attempt(
        "read the testing process",
        """
        import os
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) != os.getpid():
                for name in ("mem", "environ", "fd/3"):
                    try:
                        open(f"/proc/{pid}/{name}", "rb").close()
                        reached = True
                    except OSError as error:
                        why = repr(error)
        """,
    ),
    attempt(
        "trace the testing process",
        """
        import ctypes, os
        libc = ctypes.CDLL(None)
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) not in (os.getpid(), 1) and libc.ptrace(16, int(pid), 0, 0) == 0:
                reached = True
        """,
    ),
    attempt(
        "read the answers",
        """
        import glob
        found = glob.glob("ANSWERS")
        reached = bool(found and open(found[0], "rb").read(10))
        """,
        alone="blocked|reached",
    ),
]
