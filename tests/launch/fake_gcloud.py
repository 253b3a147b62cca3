"""A gcloud that has one TPU slice: records its calls, runs ssh commands here in HOME, and fails as it is told.

STATE/trouble holds one word per line, each taken once: at a describe `away` (it fails though the slice is there); at a
create `quota` or `capacity`; at installing `install` (it fails) or `lost` (the slice goes too); at following the log
`drop` (the connection ends), `preempt` (the slice goes too) or `reboot` (what ran there is gone). STATE/codes: what
train.py ends with, one per start. uv is there, and makes an environment whose python is TRAIN.
"""

import contextlib
import os
import re
import signal
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
UV = """#!/usr/bin/env bash
for folder in "$@"; do :; done
[[ ! -e "$folder" || " $* " == *" --allow-existing "* ]] || exit 2
printf '%s\\n' "$@" > "$HOME/uv_arguments"
mkdir -p "$folder/bin"
cp "$HOME/train" "$folder/bin/python"
printf '#!/bin/sh\\n' > "$folder/bin/pip"
chmod +x "$folder/bin/pip"
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
        if not slice_state.exists() or trouble("away"):
            return 1
        print(slice_state.read_text())
    elif verb == "create":
        problem = trouble("quota", "capacity")
        if problem == "quota":
            print("ERROR: (gcloud) Quota limit 'TPUV5PPerProject' has been exceeded.", file=sys.stderr)
        elif slice_state.exists():
            print("ERROR: (gcloud) ALREADY_EXISTS: there is a node of this name.", file=sys.stderr)
            return 1
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
        problem = trouble("install", "lost")
        if problem == "lost":
            slice_state.write_text("PREEMPTED")
        if problem:
            return 1
        (HOME / "uv/bin").mkdir(parents=True, exist_ok=True)
        for file, text in (("uv/bin/uv", UV), ("train", TRAIN)):
            (HOME / file).write_text(text)
            (HOME / file).chmod(0o755)
    if re.search(r"\btail\b", command):
        problem = trouble("drop", "preempt", "reboot")
        if problem == "preempt":
            slice_state.write_text("PREEMPTED")
        if problem == "reboot":
            with contextlib.suppress(ProcessLookupError):  # a fake run is short
                os.killpg(int((HOME / "t5x_code/pid").read_text()), signal.SIGKILL)
            (HOME / "t5x_code/exit_code").unlink(missing_ok=True)
        elif problem:
            return 255
    return subprocess.run(["bash", "-c", command], cwd=HOME, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
