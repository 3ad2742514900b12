"""Jobs for processes of their own, and what became of them."""

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from signal import SIGKILL
from threading import Timer
from typing import Any

from threadkeep.local.process import python_environment


@dataclass(frozen=True, slots=True)
class Failed:
    """No result: too slow, or wrong. The reason is one line."""

    reason: str


def run(job: dict[str, Any], *, seconds: float = 600.0, placing: float = 300.0) -> dict[str, Any] | Failed:
    """The result of `benchmarks.child`, which is started anew for this job alone.

    Args:
        job: What it is to do.
        seconds: How long that may take once threads are in place.
        placing: How long putting them there may take.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=python_environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with process, ThreadPoolExecutor(1) as pool:
        errors = pool.submit(process.stderr.read)
        process.stdin.write(json.dumps(job))
        process.stdin.close()
        last, limit, stopping = "", placing, Timer(placing, process.kill)
        stopping.start()
        for line in process.stdout:
            last = line.strip()
            stopping.cancel()
            limit = seconds if last == "placed" else placing
            stopping = Timer(limit, process.kill)
            stopping.start()
        stopping.cancel()
        process.wait()
        said = errors.result().strip().splitlines()
    if process.returncode == -SIGKILL:
        return Failed(
            f"> {limit:g} s" if last == "placed" else f"{'not checked' if last else 'not placed'} in {limit:g} s"
        )
    if process.returncode:
        return Failed((said or ["no reason given"])[-1][:300])
    result: dict[str, Any] = json.loads(last)
    return result


def must(result: dict[str, Any] | Failed) -> dict[str, Any]:
    if isinstance(result, Failed):
        raise SystemExit(f"a measurement failed: {result.reason}")
    return result
