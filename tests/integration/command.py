"""The command line as a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from threadkeep.config import Settings

SECRET = "what the message says"


@dataclass
class Ran:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


def run_command(settings: Settings, *arguments: Any, stdin: Any = None, timeout: float = 60, **environ: str) -> Ran:
    """Run a command with these settings; variables given override them."""
    env = {**clean_environment(), **settings.to_environ(), **environ}
    command = [sys.executable, "-m", "threadkeep.cli", *map(str, arguments)]
    data = stdin.encode() if isinstance(stdin, str) else stdin
    ran = subprocess.run(command, env=env, input=data or b"", capture_output=True, timeout=timeout, check=False)
    assert b"Traceback" not in ran.stderr, ran.stderr.decode()
    return Ran(ran.returncode, ran.stdout.decode(), ran.stderr.decode())


def clean_environment() -> dict[str, str]:
    """The environment without anybody's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("THREADKEEP_")}


def lines(*messages: Any) -> str:
    """Messages as a file to import."""
    return "".join(json.dumps(message) + "\n" for message in messages)
