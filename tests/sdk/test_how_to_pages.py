"""Each page on a provider or a framework is a program: all of its blocks, in order, run against real servers."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.sdk.page_scripts import PAGES, README_AGENT

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs" / "how-to"


def blocks(page):
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def test_every_page_on_a_provider_has_a_script():
    pages = {f"docs/how-to/{path.name}" for path in HOW_TO.glob("use-with-*.md")}
    assert pages <= PAGES.keys()


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_program_runs_and_prints_what_it_says(page, settings, worker, provider):
    worker()
    run("\n".join(blocks(ROOT / page)), PAGES[page], settings, provider)


def test_the_readmes_agent_runs(settings, worker, provider):
    worker()
    (agent,) = (block for block in blocks(ROOT / "README.md") if "session.run(" in block)
    run(agent, README_AGENT, settings, provider)


def run(program, script, settings, provider):
    provider.script(*script.answers)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {name: value.format(url=provider.url) for name, value in script.environment.items()}
    env = {**os.environ, **settings.to_environ(), **own, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout == script.prints
    assert len(provider.requests) == len(script.answers)
