"""What a worker's log tells of the tasks that it ran."""

import ast
import re
from typing import Any

RECEIVED = re.compile(r"Task threadkeep\.(\w+)\[([^\]]+)\] received")
SUCCEEDED = re.compile(r"Task threadkeep\.(\w+)\[[^\]]+\] succeeded in [\d.]+s: (\{.*\})")
RETRIED = re.compile(r"Task threadkeep\.(\w+)\[[^\]]+\] retry: Retry in ([\d.]+)s")


def received(log: str, task: str) -> list[str]:
    """Ids of the messages that came for a task; one that is retried comes again."""
    return [task_id for name, task_id in RECEIVED.findall(log) if name == task]


def results(log: str, task: str) -> list[dict[str, Any]]:
    """What a task returned, run by run."""
    return [ast.literal_eval(result) for name, result in SUCCEEDED.findall(log) if name == task]


def outcomes(log: str, task: str) -> list[str]:
    """How a task ended, run by run."""
    return [result["outcome"] for result in results(log, task)]


def delays(log: str, task: str) -> list[float]:
    """Seconds before each retry."""
    return [float(seconds) for name, seconds in RETRIED.findall(log) if name == task]
