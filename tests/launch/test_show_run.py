"""A run that has not been validated, as before its first time or where no document is held out, is shown without."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_a_run_without_validation(tmp_path):
    lines = [json.dumps({"step": step, "loss": 9.0 - step}) for step in (1, 2, 3)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    stores = {"folders": {"mine": str(tmp_path / "nobody needs it")}, "shares": {"mine/causal_lm": 1.0}}
    (tmp_path / "stores.json").write_text(json.dumps(stores))
    command = [sys.executable, "launch/show_run.py", f"--model_dir={tmp_path}"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.endswith("\nno validation so far\n")
