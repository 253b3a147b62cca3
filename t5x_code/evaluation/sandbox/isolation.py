"""The three ways to shut a program in, the strongest first, and which of them work on this machine.

bubblewrap: no network; a file system of the system's programs and the interpreter, read-only, with small temporary
folders; its own process, user, IPC and host-name namespaces. namespaces: the same by system calls of our own, where
there is no bubblewrap. rlimits: resource limits and a filter of system calls, which takes the network and the reach to
other processes; for root, a user of its own. A program can read what everybody can; without root it is of the runner's
own user and can read what that user can. Where the kernel has Landlock it writes to its own folder alone (and, where
the runner is root, to shared memory). Elsewhere, without root, it can change the files that the runner's user can, and
by /proc the memory of that user's other processes; the runner and its zygotes are hidden there.
"""

import dataclasses
import functools
import json
import os
import shutil
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from t5x_code.errors import UserError
from t5x_code.evaluation.sandbox.inside import landlock
from t5x_code.evaluation.sandbox.inside.confine import INSIDE_USER
from t5x_code.evaluation.sandbox.limits import Execution, IsolationName, Limits

ISOLATIONS: tuple[IsolationName, ...] = ("bubblewrap", "namespaces", "rlimits")
_SYSTEM_FOLDERS = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives", "/nix", "/gnu")
_FIRST_USER = 0x70000000  # numbers that no system gives to people; one per sandbox, so that their processes count apart
_INSIDE = Path(__file__).parent / "inside"
_ROOM = "t5x_code.evaluation.sandbox.inside"
# In the order in which they import.
_MODULES = ("wire", "candidate", "tests", "processes", "confine", "landlock", "seccomp", "zygote")

# The sandbox sees no file of ours: our modules come to it as text.
_BOOT = """
import json, sys, types
settings = json.loads(sys.argv[1])
for name, source in settings.pop("modules"):
    module = sys.modules[name] = types.ModuleType(name)
    package, _, last = name.rpartition(".")
    setattr(sys.modules.setdefault(package, types.ModuleType(package)), last, module)
    exec(compile(source, name, "exec"), module.__dict__)
sys.argv[:] = [""]
confine, zygote = (sys.modules[settings["room"] + "." + last] for last in ("confine", "zygote"))
confine.confine(settings)
sys.modules[settings["room"] + ".processes"].hide_memory()
zygote.main(settings)
"""


@dataclasses.dataclass(frozen=True)
class Start:
    """How to start one zygote."""

    command: list[str]
    folder: str | None  # made for it outside, to be removed after it


def choose_isolation(execution: Execution) -> IsolationName:
    """The isolation that was asked for, or the strongest that works.

    Raises:
        UserError: running code was not allowed, the asked isolation does not work here, or only limits are left and
            that was not allowed.
    """
    if not execution.allowed:
        raise UserError(
            "this evaluation runs programs that nobody has read; add --allow_code_execution to run them in a sandbox, "
            "or in a recipe ALLOW_CODE_EXECUTION = True"
        )
    if execution.isolation is not None:
        reason = why_not(execution.isolation)
        if reason:
            raise UserError(f"the isolation {execution.isolation} does not work here ({reason}); choose another")
        chosen = execution.isolation
    else:
        chosen = next((name for name in ISOLATIONS if why_not(name) is None), None)
        if chosen is None:
            raise UserError(f"programs cannot be run here: {why_not('rlimits')}")
    if chosen == "rlimits" and not execution.allowed_without_isolation:
        reasons = "; ".join(f"{name}: {why_not(name)}" for name in ISOLATIONS[:2] if why_not(name))
        could = "read your files" if os.geteuid() == 0 or landlock.version() else "read and change your files"
        raise UserError(
            f"only resource limits and a filter of system calls would hold the programs ({reasons or 'as asked'}): "
            f"they could {could}; install bubblewrap, or add --allow_without_isolation on a machine that may be lost"
        )
    return chosen


@functools.cache
def why_not(isolation: IsolationName) -> str | None:
    """Why an isolation does not work on this machine; None: it does."""
    from t5x_code.evaluation.sandbox.sandbox import Sandbox  # it starts what this file describes

    if sys.platform != "linux":
        return "it needs Linux"
    if isolation == "bubblewrap" and shutil.which("bwrap") is None:
        return "bwrap is not installed"
    try:
        with Sandbox(isolation, Limits()):
            return None
    except UserError as error:
        return str(error)


def start_of(isolation: IsolationName, limits: Limits, number: int) -> Start:
    """The command of a zygote.

    Args:
        isolation: which.
        limits: of its programs.
        number: of this sandbox in this process; root's sandboxes get a user each.
    """
    user = user_of(number) if os.geteuid() == 0 else None
    # Before there is a folder that nobody would remove if they cannot be read.
    modules = [(f"{_ROOM}.{name}", (_INSIDE / f"{name}.py").read_text()) for name in _MODULES]
    folder = None
    if isolation == "rlimits":
        folder = tempfile.mkdtemp(prefix="t5x_code.sandbox.")
        if user is not None:
            os.chown(folder, user, user)
    settings = {
        "room": _ROOM,
        "isolation": isolation,
        "outer_user": user,
        "user": user if isolation == "rlimits" else None,
        "folders": [folder] if folder else ["/tmp", "/dev/shm"],
        "folder_bytes": limits.folder_bytes,
        "read_only": _read_only_folders(),
        "links": _links(),
        "hidden": _hidden_folders(),
        "landlock": landlock.version(),
        "modules": modules,
    }
    interpreter = [os.path.realpath(sys.executable), "-I", "-c", _BOOT, json.dumps(settings)]
    outside = _bubblewrap(settings) if isolation == "bubblewrap" else []
    return Start([*outside, *interpreter], folder)


def user_of(number: int, runner: int | None = None) -> int:
    """The user that root gives to a sandbox of a process; of this one if not said."""
    return _FIRST_USER + (((runner or os.getpid()) << 8) + number) % 0x0FFFFFFF


def _bubblewrap(settings: dict[str, Any]) -> list[str]:
    command = ["bwrap", "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    command += ["--die-with-parent", "--new-session", "--as-pid-1", "--clearenv", "--hostname", "sandbox"]
    if settings["outer_user"] is None:
        command += ["--unshare-user", "--disable-userns", "--uid", str(INSIDE_USER), "--gid", str(INSIDE_USER)]
    else:  # its first act is to become that user
        command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    for folder in settings["read_only"]:
        for parent in list(reversed(Path(folder).parents))[1:]:  # left to bubblewrap, they are closed to that user
            command += ["--perms", "0755", "--dir", str(parent)]
        command += ["--ro-bind", folder, folder]
    for link, target in settings["links"]:
        command += ["--symlink", target, link]
    for folder in settings["hidden"]:
        command += ["--size", "4096", "--tmpfs", folder, "--remount-ro", folder]
    size = settings["folder_bytes"]
    command += ["--proc", "/proc", "--dev", "/dev"]
    if settings["outer_user"] is not None:
        command += ["--bind", "/proc/sys", "/proc/sys"]  # to forbid further namespaces; it is not root there
    command += ["--perms", "0777", "--size", str(size // 4), "--tmpfs", "/dev/shm", "--remount-ro", "/dev"]
    return [*command, "--perms", "0777", "--size", str(size), "--tmpfs", "/tmp", "--chdir", "/tmp", "--remount-ro", "/"]


def _read_only_folders() -> list[str]:
    """The system's programs and libraries, and the interpreter where it lies elsewhere."""
    system = [folder for folder in _SYSTEM_FOLDERS if os.path.isdir(folder) and not os.path.islink(folder)]
    base = os.path.realpath(sys.base_prefix)
    inside = any(base == folder or base.startswith(f"{folder}/") for folder in system)
    return system if inside else [*system, base]


def _links() -> list[tuple[str, str]]:
    return [(folder, os.readlink(folder)) for folder in _SYSTEM_FOLDERS if os.path.islink(folder)]


def _hidden_folders() -> list[str]:
    """Installed packages: among them lie the benchmarks' answers."""
    base = {"base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    found = {os.path.realpath(sysconfig.get_path(name, vars=base)) for name in ("purelib", "platlib")}
    visible = _read_only_folders()
    return sorted(path for path in found if os.path.isdir(path) and any(path.startswith(f"{v}/") for v in visible))
