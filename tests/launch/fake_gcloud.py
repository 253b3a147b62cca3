"""A gcloud that has one TPU slice: records its calls, runs ssh commands here in HOME, and fails as it is told.

STATE/trouble holds one word per line, each taken once: at a create `quota` or `capacity`; at following the log `drop`
(the connection ends) or `preempt` (the slice goes too). STATE/codes: what train.py ends with, one per start.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

STATE, HOME = Path(os.environ["FAKE_STATE"]), Path(os.environ["HOME"])
TRAIN = """#!/usr/bin/env bash
printf '%s\\n' "$@" >> "$HOME/arguments"
code="$(head -n 1 "$FAKE_STATE/codes")"
sed -i 1d "$FAKE_STATE/codes"
echo "step 1 of a fake run"
sleep 0.2
exit "$code"
"""


def trouble(*kinds: str) -> str | None:
    """The next trouble, if it is of one of these kinds."""
    file = STATE / "trouble"
    words = file.read_text().split() if file.exists() else []
    if words and words[0] in kinds:
        file.write_text("\n".join(words[1:]))
        return words[0]
    return None


def main(arguments: list[str]) -> int:
    with (STATE / "calls").open("a") as handle:
        handle.write(" ".join(arguments).replace("\n", " ") + "\n")
    verb, slice_state = arguments[3], STATE / "slice"
    if verb == "describe":
        if not slice_state.exists():
            return 1
        print(slice_state.read_text())
    elif verb == "create":
        problem = trouble("quota", "capacity")
        if problem == "quota":
            print("ERROR: (gcloud) Quota limit 'TPUV5PPerProject' has been exceeded.", file=sys.stderr)
        elif problem == "capacity":
            print("ERROR: (gcloud) There is no more capacity in the zone.", file=sys.stderr)
        else:
            slice_state.write_text("READY")
        return 1 if problem else 0
    elif verb == "delete":
        slice_state.unlink()
    elif verb == "scp":
        (HOME / "t5x_code.tar.gz").write_bytes(Path(arguments[4]).read_bytes())
    elif verb == "ssh":
        return ssh(next(a for a in arguments if a.startswith("--command=")).partition("=")[2], slice_state)
    return 0


def ssh(command: str, slice_state: Path) -> int:
    if "pip install" in command:
        command = command.partition("python3 -m venv")[0] + "true"
        python = HOME / "venv/bin/python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(TRAIN)
        python.chmod(0o755)
    if re.search(r"\btail\b", command):
        problem = trouble("drop", "preempt")
        if problem == "preempt":
            slice_state.write_text("PREEMPTED")
        if problem:
            return 255
    return subprocess.run(["bash", "-c", command], cwd=HOME, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
