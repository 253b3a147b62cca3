"""Programs that strike at who runs beside them: the runner, the zygote, the tests, whatever else is of their user."""

from hostile_program import DEAD, WRONG, attempt, hostile

STRIKES = [
    hostile(
        "kill everybody",
        """
        import os, signal
        os.kill(-1, signal.SIGKILL)
        def square(x): return 5
        """,
        f"{WRONG}|{DEAD}|ProcessLookupError",  # the last where the testing process is not yet of the program's user
        alone=f"{WRONG}|PermissionError",  # and the tests, which nobody killed, ask on
    ),
    hostile(
        "kill the parent",
        """
        import os, signal
        os.kill(os.getppid(), signal.SIGKILL)
        def square(x): return 5
        """,
        f"{WRONG}|PermissionError|{DEAD}",
        alone="PermissionError",
    ),
    hostile(
        "stop the parent",
        """
        import os, signal
        os.kill(os.getppid(), signal.SIGSTOP)
        def square(x): return 5
        """,
        f"{WRONG}|PermissionError|{DEAD}",
        alone="PermissionError",
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
    hostile(
        "stop the runner",
        """
        import os, signal
        os.kill(RUNNER, signal.SIGSTOP)
        def square(x): return 5
        """,
        "ProcessLookupError|PermissionError",
    ),
    attempt(
        "signal the runner, each way",
        """
        import ctypes, os, struct
        machine = os.uname().machine
        libc, information = ctypes.CDLL(None), struct.pack("4i", 0, 0, -1, 0) + bytes(112)
        kill, tkill, tgkill, queue, queue_thread = {
            "x86_64": (62, 200, 234, 129, 297), "aarch64": (129, 130, 131, 138, 240)
        }[machine]
        for call in (
            (kill, RUNNER, 0), (kill, -RUNNER, 0), (tkill, RUNNER, 0), (tgkill, RUNNER, RUNNER, 0),
            (queue, RUNNER, 0, information), (queue_thread, RUNNER, RUNNER, 0, information),
        ):
            if libc.syscall(*call) == 0:
                reached, why = True, call
        """,
    ),
    attempt(
        "signal the runner by a descriptor",
        """
        import os, signal
        for open_it in (os.pidfd_open, lambda pid: os.open(f"/proc/{pid}", os.O_RDONLY | os.O_DIRECTORY)):
            try:
                signal.pidfd_send_signal(open_it(RUNNER), 0)
                reached = True
            except OSError as error:
                why += repr(error)
        """,
    ),
    attempt(
        "signal the runner by a file that it owns",
        """
        import fcntl, os, struct
        pipe, _ = os.pipe()
        for command, value in ((8, RUNNER), (15, struct.pack("ii", 1, RUNNER))):  # F_SETOWN, F_SETOWN_EX
            try:
                fcntl.fcntl(pipe, command, value)
                reached = True
            except OSError as error:
                why = repr(error)
        """,
    ),
    attempt(
        "lower the runner's limits",
        """
        import resource
        resource.prlimit(RUNNER, resource.RLIMIT_CORE, (0, 0))
        reached = True
        """,
    ),
    attempt(
        "slow the runner",
        """
        import os
        for slow in (
            lambda: os.sched_setaffinity(RUNNER, {0}),
            lambda: os.setpriority(os.PRIO_PROCESS, RUNNER, 19),
            lambda: os.sched_setscheduler(RUNNER, os.SCHED_IDLE, os.sched_param(0)),
        ):
            try:
                slow()
                reached = True
            except OSError as error:
                why = repr(error)
        """,
    ),
    attempt(
        "slow all that its user runs",
        "import os\nos.setpriority(os.PRIO_USER, 0, 19)\nreached = True",
        "reached|blocked",  # they are all its own
        alone="blocked",
    ),
    attempt(
        "read the runner by /proc",
        """
        import os
        for name in ("mem", "environ", "maps", "fd/0", "root/etc/passwd", "cwd"):
            try:
                os.stat(f"/proc/RUNNER/{name}") if name == "cwd" else open(f"/proc/RUNNER/{name}", "rb").close()
                reached, why = True, name
            except OSError as error:
                why = why or repr(error)
        """,
    ),
    attempt(
        "read its neighbours with process_vm_readv",
        """
        import ctypes, os, struct
        libc, here = ctypes.CDLL(None, use_errno=True), ctypes.create_string_buffer(8)
        local, remote = struct.pack("QQ", ctypes.addressof(here), 8), struct.pack("QQ", id(None), 8)
        for pid in (RUNNER, os.getppid()):
            if libc.process_vm_readv(pid, local, 1, remote, 1, 0) > 0 or ctypes.get_errno() == 14:  # a bad address
                reached = True
        """,
    ),
    attempt(
        "trace the runner",
        """
        import ctypes
        PTRACE_SEIZE = 0x4206  # which does not stop it
        reached = ctypes.CDLL(None).ptrace(PTRACE_SEIZE, RUNNER, 0, 0) == 0
        """,
    ),
    attempt("hold the runner by a descriptor", "import os\nos.pidfd_open(RUNNER)\nreached = True"),
    attempt(
        "calls that no filter sees",
        """
        import ctypes
        reached = ctypes.CDLL(None).syscall(425, 8, bytes(120)) >= 0  # io_uring_setup
        """,
        "reached|blocked",
        alone="blocked",
    ),
    attempt(
        "leave shared memory",
        "import ctypes\nreached = ctypes.CDLL(None).shmget(0x0705, 4096, 0o1600) >= 0",
        "reached|blocked",  # it goes with their namespace
        alone="blocked",
    ),
    attempt(
        "open what is its user's to all",
        """
        import os
        os.chmod("OUTSIDE", 0o777)
        reached = True
        """,
    ),
    attempt(
        "listen at the terminal",
        """
        import os
        os.open("TERMINAL", os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK)
        reached = True
        """,
    ),
]
