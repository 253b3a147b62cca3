"""Programs that take too much: processes, memory, disk, time, depth, answers without end."""

from hostile_program import DEAD, attempt, hostile

BOMBS = [
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
        "stopped: (memory|cpu time)",  # where page faults are slow, the second of CPU is spent before the memory
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
]
