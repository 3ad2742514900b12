"""The programs that the README and the tutorial show, run as a reader runs them: against real servers and a worker."""

import os
import re
import subprocess
import sys
from pathlib import Path

from threadkeep import Threadkeep
from threadkeep.config import Settings

ROOT = Path(__file__).parents[2]


def blocks(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)


def run(code: str, settings: Settings) -> str:
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    env = {**os.environ, **settings.to_environ(), "PYTHONPATH": path}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_readmes_example_runs_and_runs_again(settings: Settings, worker) -> None:
    worker()
    for _ in range(2):
        said = run(blocks("README.md")[0], settings)
        assert said == "I am sorry. Which one? {'step': 'ask for the number'}\n"
    with Threadkeep(settings) as keep:
        assert len(keep.read("ticket-42").messages) == 2


def test_the_readmes_coroutine_writes_a_thread(settings: Settings, worker) -> None:
    worker()
    code = next(block for block in blocks("README.md") if "AsyncThreadkeep" in block)
    code += """
import asyncio

async def main():
    async with AsyncThreadkeep() as keep:
        await say(keep, "a", "hello")

asyncio.run(main())
"""
    assert run(code, settings) == "[{'role': 'user', 'content': 'hello'}]\n"


def test_the_tutorials_programs_run_in_order(settings: Settings, worker) -> None:
    worker()
    first, back = blocks("docs/tutorial.md")
    assert run(first, settings) == "on its way to the archive: True\n"
    assert run(first, settings) == "on its way to the archive: True\n"
    with Threadkeep(settings) as keep:
        keep.flush("ticket-42", wait=20)
    said = run(back, settings).splitlines()
    assert said[0] == "I am sorry. Which one? {'step': 'ask for the number'}"
    assert said[1].startswith("another session writes thread ticket-42")
    assert said[2] == "3 messages, read without a lease"


def test_a_repeated_message_with_other_text_is_refused_as_the_tutorial_says(settings: Settings, worker) -> None:
    worker()
    first = blocks("docs/tutorial.md")[0]
    run(first, settings)
    changed = first.replace("My parcel is late.", "Something else.")
    wrapped = "from threadkeep.errors import MessageConflict\ntry:\n" + "".join(
        f"    {line}\n" for line in changed.splitlines()
    )
    assert run(wrapped + "except MessageConflict:\n    print('refused')\n", settings) == "refused\n"
