"""How users scale: more worker processes on one queue do the same work, and every thread is right."""

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_three_workers_drain_one_queue_as_rightly_as_one(tmp_path):
    """The rates that the command prints are for people: see `make scale`."""
    command = [sys.executable, ROOT / "benchmarks" / "scaling.py", "--threads", "60"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(r"│ (\d) +│ +\d+ +│.*│ (60 of 60) +│", done.stdout)
    assert rows == [("1", "60 of 60"), ("3", "60 of 60")]
