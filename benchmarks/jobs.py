"""Jobs for processes of their own, and what became of them."""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from threadkeep.local.process import python_environment


@dataclass(frozen=True, slots=True)
class Failed:
    """No result: too slow, or wrong.

    Attributes:
        reason: One line.
        slow: It was under way, and was stopped.
    """

    reason: str
    slow: bool = False


def run(job: dict[str, Any], *, seconds: float = 300.0) -> dict[str, Any] | Failed:
    """The result of `benchmarks.child`, which is started anew for this job alone."""
    command = [sys.executable, "-m", "benchmarks.child"]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=python_environment(),
    )
    try:
        output, errors = process.communicate(json.dumps(job), timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        output, errors = process.communicate()
        return Failed(f"> {seconds:g} s" if "placed" in output else f"not placed within {seconds:g} s", slow=True)
    if process.returncode:
        return Failed((errors.strip().splitlines() or ["no reason given"])[-1][:300])
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    return result


def must(result: dict[str, Any] | Failed) -> dict[str, Any]:
    if isinstance(result, Failed):
        raise SystemExit(f"a measurement failed: {result.reason}")
    return result
