"""Programs that try to pass without solving, to break out, or to stay. Each is bounded by itself, so that a hole in the
sandbox does not take the machine down: a few thousand forks, a gigabyte, a minute.

The task is `square(x)`; none solves it. A program that tries to reach something says by its exception how that went.
"""

import dataclasses
import textwrap

TESTS = "def check(candidate):\n    assert candidate(2) == 4\n    assert abs(candidate(3) - 9) < 1e-6\ncheck(square)\n"
WRONG = "AssertionError"


@dataclasses.dataclass(frozen=True)
class Hostile:
    """A program, and a pattern of what must come of it; `alone` where nothing but resource limits hold it."""

    name: str
    source: str
    expected: str
    alone: str | None = None

    def expected_at(self, isolation: str) -> str:
        return self.alone if isolation == "rlimits" and self.alone else self.expected


def hostile(name: str, source: str, expected: str, alone: str | None = None) -> Hostile:
    return Hostile(name, textwrap.dedent(source), expected, alone)


def attempt(name: str, source: str, expected: str = "blocked", alone: str | None = None) -> Hostile:
    """A program that sets `reached` when its attempt succeeds; errors are what stops it."""
    body = textwrap.indent(textwrap.dedent(source), "    ")
    head = "reached, why = False, ''\ntry:\n"
    tail = "\nexcept BaseException as error:\n    why = repr(error)\n"
    tail += "raise RuntimeError(('reached ' if reached else 'blocked ') + why)\n"
    return Hostile(name, head + body + tail, expected, alone)


DEAD = r"the program ended|ended with status"

PROGRAMS = [
    # Passing without solving.
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
    # Taking what is not theirs.
    attempt(
        "fork bomb",
        """
        import os, time
        for _ in range(3000):
            if os.fork() == 0:
                time.sleep(60)
                os._exit(0)
        reached = True
        """,
        "blocked BlockingIOError",
    ),
    hostile(
        "doubling fork bomb",
        """
        import os
        for _ in range(11):
            try:
                os.fork()
            except OSError:
                pass
        def square(x): return 5
        """,
        "failed|stopped",
    ),
    attempt(
        "thread bomb",
        """
        import threading, time
        for _ in range(2000):
            threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        reached = True
        """,
        "blocked RuntimeError",
    ),
    attempt("memory bomb", "block = bytearray(1 << 30)\nreached = True", "blocked MemoryError"),
    hostile(
        "memory bomb of many",
        """
        import os, time
        for _ in range(4):
            if os.fork() == 0:
                break
        block = bytearray(220 << 20)
        block[::4096] = b"x" * len(block[::4096])
        time.sleep(60)
        """,
        "stopped: memory",
    ),
    attempt(
        "large file",
        """
        with open("large", "wb") as file:
            for _ in range(200):
                file.write(bytes(1 << 20))
                file.flush()
        reached = True
        """,
        "blocked OSError.*too large",
    ),
    hostile(
        "many files",
        """
        import time
        for number in range(150):
            with open(f"file{number}", "wb") as file:
                file.write(bytes(1 << 20))
        time.sleep(60)
        """,
        "No space left",
        alone="stopped: disk",
    ),
    attempt(
        "shared memory",
        """
        for number in range(64):
            with open(f"/dev/shm/file{number}", "wb") as file:
                file.write(bytes(1 << 20))
        reached = True
        """,
        alone="reached|blocked",
    ),
    attempt("many open files", "files = [open('/dev/null') for _ in range(5000)]\nreached = True"),
    attempt(
        "lift the limits",
        """
        import resource
        for kind in (resource.RLIMIT_NPROC, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU):
            try:
                resource.setrlimit(kind, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                reached = True
            except (ValueError, OSError) as error:
                why = repr(error)
        """,
    ),
    hostile("endless output", "while True: print('x' * 10000, flush=True)", "stopped: cpu"),
    hostile("busy for ever", "while True: pass", "stopped: cpu"),
    hostile(
        "deaf and busy",
        """
        import signal
        for number in range(1, 65):
            try:
                signal.signal(number, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True: pass
        """,
        "stopped: cpu",
    ),
    hostile(
        "deaf and asleep",
        """
        import signal, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        time.sleep(60)
        """,
        "stopped: idle",
    ),
    hostile("asleep when called", "import time\ndef square(x): time.sleep(60)", "stopped: idle"),
    hostile("wait on a pipe", "import os\nos.mkfifo('pipe')\nopen('pipe').read()", "stopped: idle"),
    hostile("regular expression", "import re\nre.match('(a+)+$', 'a' * 40 + 'b')", "stopped: cpu"),
    hostile(
        "huge number",
        """
        x = 3 ** (10 ** 8)
        print(x % 7)
        while True: x = x * x
        """,
        "stopped|MemoryError|OverflowError",
    ),
    hostile(
        "huge number as text",
        """
        import sys
        sys.set_int_max_str_digits(0)
        str(7 ** (3 * 10 ** 6))
        while True: pass
        """,
        "stopped",
    ),
    attempt(
        "zip bomb",
        """
        import zlib
        bomb = zlib.compress(bytes(64 << 20), 9)
        blocks = [zlib.decompress(bomb) for _ in range(16)]
        reached = True
        """,
        "blocked MemoryError|stopped: cpu",
    ),
    hostile(
        "deep recursion",
        "import sys\nsys.setrecursionlimit(10 ** 8)\ndef f(x): return [f(x + 1)]\nf(0)",
        f"{DEAD}|MemoryError|RecursionError|stopped: memory|stopped: cpu time",
    ),
    hostile("deep answer", "def square(x):\n    a = []\n    for _ in range(10 ** 5): a = [a]\n    return a", "failed"),
    hostile("large answer", "def square(x): return 'x' * (200 << 20)", "failed|stopped"),
    hostile("endless answer", "def square(x):\n    while True: yield x", "failed|stopped"),
    hostile(
        "an exception that does not end",
        """
        class E(Exception):
            def __str__(self):
                while True: pass
        raise E
        """,
        "stopped: cpu",
    ),
    hostile("an exception without a text", "class E(Exception):\n    def __str__(self): raise self\nraise E", "failed"),
    hostile(
        "bytes that are no text",
        """
        import sys
        sys.stdout.buffer.write(b'\\xff\\xfe' * 1000)
        def square(x): return '\\udcff'
        """,
        "failed",
    ),
    hostile("segmentation fault", "import ctypes\nctypes.string_at(0)", DEAD),
    hostile("abort", "import os\nos.abort()", DEAD),
    # Reaching out, and staying.
    attempt(
        "write outside",
        """
        import os, sys
        for folder in ("/", "/usr", "/etc", "/root", "/home", "/var", "/dev", os.path.dirname(os.__file__), "OUTSIDE"):
            try:
                with open(os.path.join(folder, "hostile"), "w") as file:
                    file.write("here")
                reached, why = True, folder
            except OSError as error:
                why = why or repr(error)
        """,
    ),
    attempt(
        "write where everybody may",
        """
        import os
        for folder in ("/var/tmp", "/run/lock"):
            if os.path.isdir(folder):
                os.makedirs(folder + "/hostile_folder/inner")
                reached = True
        """,
        alone="reached|blocked",
    ),
    attempt(
        "connect to the machine",
        """
        import socket
        socket.create_connection(("127.0.0.1", PORT), timeout=2).close()
        reached = True
        """,
        alone="reached",
    ),
    hostile(
        "leave a server behind",
        """
        import os, socket, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                server = socket.socket()
                server.bind(("127.0.0.1", PORT + 1))
                server.listen()
                time.sleep(60)
            os._exit(0)
        time.sleep(0.2)
        def square(x): return 5
        """,
        WRONG,
    ),
    hostile(
        "leave a process behind",
        """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                for descriptor in range(64):
                    try: os.close(descriptor)
                    except OSError: pass
                time.sleep(60)
            os._exit(0)
        os._exit(0)
        """,
        DEAD,
    ),
    hostile(
        "leave a thread behind",
        "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\ndef square(x): return 5",
        WRONG,
    ),
    hostile(
        "delete its folder",
        """
        import os, shutil
        shutil.rmtree(os.getcwd(), ignore_errors=True)
        def square(x): return 5
        """,
        f"{WRONG}|{DEAD}",  # where the tests start in that folder, they may find it gone
    ),
    hostile(
        "a folder that resists",
        """
        import os
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        os.chmod(".", 0)
        def square(x): return 5
        """,
        WRONG,
    ),
    hostile(
        "kill everybody",
        """
        import os, signal
        os.kill(-1, signal.SIGKILL)
        def square(x): return 5
        """,
        f"{WRONG}|{DEAD}",
    ),
    hostile(
        "kill the parent",
        """
        import os, signal
        os.kill(os.getppid(), signal.SIGKILL)
        def square(x): return 5
        """,
        f"{WRONG}|PermissionError|{DEAD}",
    ),
    hostile(
        "stop the parent",
        """
        import os, signal
        os.kill(os.getppid(), signal.SIGSTOP)
        def square(x): return 5
        """,
        f"{WRONG}|PermissionError|{DEAD}",
    ),
    hostile(
        "stop the testing process",
        """
        import os, signal
        for pid in filter(str.isdigit, os.listdir("/proc")):
            if int(pid) > 1 and int(pid) != os.getpid():
                try:
                    os.kill(int(pid), signal.SIGSTOP)
                except OSError:
                    pass
        def square(x): return 5
        """,
        "stopped: idle|AssertionError",  # the latter where the testing process came after it looked
    ),
    attempt("become root", "import os\nos.setuid(0)\nreached = True"),
    attempt(
        "namespaces of its own",
        """
        import ctypes
        reached = ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0
        """,
        alone="reached|blocked",
    ),
    attempt(
        "mount",
        """
        import ctypes
        libc = ctypes.CDLL(None, use_errno=True)
        reached = libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, b"") == 0 or libc.umount2(b"/proc", 2) == 0
        """,
    ),
    attempt("import this project", "import t5x_code.evaluation\nreached = True"),
]
