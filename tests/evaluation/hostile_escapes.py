"""Programs that reach out of the sandbox, or stay behind."""

from hostile_program import DEAD, WRONG, attempt, hostile

ESCAPES = [
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
    ),
    attempt(
        "send to a server by a pair of sockets",
        """
        import socket
        ours, _ = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours.sendto(b"here", b"\\0hostile.PORT")
        reached = True
        """,
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
        alone=f"{WRONG}|PermissionError|{DEAD}",  # both processes answer
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
        alone=f"{WRONG}|PermissionError",
    ),
    attempt("become root", "import os\nos.setuid(0)\nreached = True"),
    attempt(
        "namespaces of its own",
        """
        import ctypes
        reached = ctypes.CDLL(None, use_errno=True).unshare(0x10000000) == 0
        """,
    ),
    attempt(
        "a child in namespaces of its own",
        """
        import ctypes, os
        number = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
        child = ctypes.CDLL(None).syscall(number, 0x10000000 | 17, 0, 0, 0, 0)
        if child == 0:
            os._exit(0)
        reached = child > 0
        """,
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
