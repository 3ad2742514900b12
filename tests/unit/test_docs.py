"""The docs are held to the code: links, tables, commands and Python in them.

`python tests/unit/test_docs.py` writes the generated parts anew.
"""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from threadkeep import errors
from threadkeep.config import Settings
from threadkeep.errors import ThreadkeepError
from threadkeep.tasks import outcome
from threadkeep.tasks.conf import ROUTES
from threadkeep.tasks.sweeper import SweepCounts

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
MARK = "<!-- What follows is generated: python tests/unit/test_docs.py -->\n"
RENEW = "the page is out of date; renew it with: python tests/unit/test_docs.py"
LONGEST = {"README.md": 200, "conformance.md": 600}  # the latter is one table

SECTIONS = {
    "redis_url": "Redis: the hot tier",
    "broker_url": "Broker",
    "s3_bucket": "S3: the archive",
    "database_url": "Postgres: the catalog",
    "namespace": "Threads",
    "lease_seconds": "Sessions",
    "soft_time_limit": "Workers",
    "sweep_every": "Sweep",
}
UNITS = {"Seconds": "s", "Bytes": "bytes", "Days": "days"}


# --- what is generated ----------------------------------------------------------------------------------------------


def settings_tables() -> str:
    lines: list[str] = []
    for name, field in Settings.model_fields.items():
        if name in SECTIONS:
            lines += ["", f"## {SECTIONS[name]}", "", "| variable | default | unit | meaning |", "|---|---|---|---|"]
        meaning = (field.description or "").replace("|", "\\|")
        unit = UNITS.get(meaning.split(" ", 1)[0], "")
        allowed = "".join(f" {each}." for each in [*_choices(field.annotation), *_bounds(field.metadata)])
        lines.append(f"| `THREADKEEP_{name.upper()}` | {_default(field)} | {unit} | {meaning}{allowed} |")
    return "\n".join([*lines, ""])


def _default(field: Any) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if value is None or value == {} or value is PydanticUndefined:
        return "unset"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _choices(annotation: Any) -> Iterator[str]:
    if get_origin(annotation) is Literal:
        yield "One of " + ", ".join(f"`{choice}`" for choice in get_args(annotation))
    else:
        for part in get_args(annotation):
            yield from _choices(part)


def _bounds(metadata: list[Any]) -> Iterator[str]:
    told = {name: getattr(item, name) for item in metadata for name in ("gt", "ge", "le") if hasattr(item, name)}
    if told.get("ge"):
        yield f"At least {told['ge']}"
    elif "gt" in told and "ge" not in told:
        yield "Above 0"
    if "le" in told:
        yield f"At most {told['le']:,}"


def error_tables() -> str:
    lines: list[str] = []
    source = inspect.getsource(errors)
    for title, body in re.findall(r"^# --- (.+?) -+\n(.*?)(?=^# --- |\Z)", source, re.MULTILINE | re.DOTALL):
        lines += [
            "",
            f"## {title[0].upper()}{title[1:]}",
            "",
            "| error | also a | retryable | meaning |",
            "|---|---|---|---|",
        ]
        for name in re.findall(r"^class (\w+)", body, re.MULTILINE):
            kind = getattr(errors, name)
            also = ", ".join(f"`{base.__name__}`" for base in kind.__bases__ if base.__module__ == "builtins")
            summary = (kind.__doc__ or "").split("\n")[0].replace("|", "\\|")
            lines.append(f"| `{name}` | {also} | {'yes' if kind.retryable else ''} | {summary} |")
    return "\n".join([*lines, ""])


GENERATED = {"docs/reference/settings.md": settings_tables, "docs/reference/errors.md": error_tables}


def renew() -> None:
    for path, generate in GENERATED.items():
        page = ROOT / path
        page.write_text(page.read_text().partition(MARK)[0] + MARK + generate())


# --- tests ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", GENERATED)
def test_generated_tables_are_up_to_date(path: str) -> None:
    before, mark, table = (ROOT / path).read_text().partition(MARK)
    assert before
    assert mark
    assert table == GENERATED[path](), RENEW


def test_every_setting_and_every_error_has_a_line() -> None:
    told = (ROOT / "docs/reference/settings.md").read_text()
    assert [name for name in Settings.model_fields if f"`THREADKEEP_{name.upper()}`" not in told] == []
    told = (ROOT / "docs/reference/errors.md").read_text()
    ours = [
        kind.__name__ for kind in vars(errors).values() if inspect.isclass(kind) and kind.__module__ == errors.__name__
    ]
    assert [name for name in ours if f"| `{name}` |" not in told and name != ThreadkeepError.__name__] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_variables_that_pages_name_are_settings(page: Path) -> None:
    known = {name.upper() for name in Settings.model_fields}
    named = set(re.findall(r"\bTHREADKEEP_([A-Z0-9]+(?:_[A-Z0-9]+)*)\b", page.read_text()))
    assert {name for name in named if name not in known and name != "S3"} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.exists(), target
        assert not anchor or anchor in {_anchor(line) for line in found.read_text().splitlines()}, target


def _anchor(line: str) -> str | None:
    if not line.startswith("#"):
        return None
    kept = re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower())
    return kept.replace(" ", "-")


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen: set[Path] = set()
    waiting = [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        targets = re.findall(r"\]\(([^)\s#]+)[^)]*\)", page.read_text())
        waiting += [(page.parent / target).resolve() for target in targets if not re.match(r"[a-z]+:", target)]
    assert {str(page.relative_to(ROOT)) for page in PAGES} - {str(page.relative_to(ROOT)) for page in seen} == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_are_short_and_name_no_place_of_their_making(page: Path) -> None:
    text = page.read_text()
    assert len(text.splitlines()) <= LONGEST.get(page.name, 400)
    assert not re.search(r"/(work|root|tmp)/", text)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_in_pages_compiles_and_imports_what_exists(page: Path) -> None:
    for block in re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL):
        tree = ast.parse(block)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("threadkeep"):
                found = __import__(node.module, fromlist=["_"])
                assert [alias.name for alias in node.names if not hasattr(found, alias.name)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_that_pages_name_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    text = page.read_text()
    shell = "\n".join([*re.findall(r"```sh\n(.*?)```", text, re.DOTALL), *re.findall(r"`(make [^`]+)`", text)])
    assert set(re.findall(r"^make ([a-z-]+)", shell, re.MULTILINE)) <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_pages_show_are_understood(page: Path) -> None:
    """Each `threadkeep …` line of a shell block parses: the command exists, and has those options."""
    from click import Context
    from typer.main import get_command

    from threadkeep.cli import app

    for block in re.findall(r"```sh\n(.*?)```", page.read_text(), re.DOTALL):
        for line in re.findall(r"^(?:eval \"\$\()?threadkeep ([^)#\n]*)", block, re.MULTILINE):
            command: Any = get_command(app)
            words = line.split(" -- ")[0].split()
            context = Context(command, info_name="threadkeep")
            while hasattr(command, "get_command") and words and not words[0].startswith("-"):
                name = words.pop(0)
                command = command.get_command(context, name)
                assert command is not None, line
                context = Context(command, parent=context, info_name=name)
            known = {option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]}
            used = {word.partition("=")[0] for word in words if word.startswith("-")}
            assert used <= known, line


def test_the_page_of_tasks_tells_each_task_its_queue_and_its_arguments() -> None:
    from threadkeep.tasks.app import app

    app.loader.import_default_modules()
    text = (ROOT / "docs/reference/tasks.md").read_text()
    rows = re.findall(r"^\| `(threadkeep\.\w+)` \| `([\w.]+)` \| (.*?) \|", text, re.MULTILINE)
    told = {name: (queue, re.findall(r"`(\w+)`", arguments)) for name, queue, arguments in rows}
    found = {
        name: (ROUTES[name]["queue"], list(inspect.signature(task.run).parameters))
        for name, task in app.tasks.items()
        if name.startswith("threadkeep.")
    }
    assert told == found


def test_the_page_of_tasks_names_every_fact_of_a_result() -> None:
    text = (ROOT / "docs/reference/tasks.md").read_text()
    facts = {*outcome.Outcome("x", 1, 1, 1, 1, "x").to_result("x", 1.0), *SweepCounts.__dataclass_fields__}
    assert {fact for fact in facts if f"`{fact}`" not in text} == set()


def test_the_page_of_tasks_names_every_outcome_in_the_code() -> None:
    text = (ROOT / "docs/reference/tasks.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "threadkeep/tasks").glob("*.py"))
    used = set(re.findall(r'Outcome\(\s*"(\w+)"', sources))
    assert used >= {"absent", "corrupt", "still_hot", "unchanged"}
    assert {word for word in used if f"`{word}`" not in text} == set()


def test_importing_a_documented_app_takes_no_server() -> None:
    """The snippet for a Celery app of one's own, as the README has it."""
    block = next(
        block
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
        if "adopt" in block
    )
    code = block + "\nfrom threadkeep.tasks.conf import check\nprint(sorted(q.name for q in app.conf.task_queues))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "'threadkeep.flush'" in done.stdout


if __name__ == "__main__":
    renew()


def test_the_failure_model_names_tests_that_are_there() -> None:
    """Each row of its tables names at least one: a file, or a test in it."""
    page = (ROOT / "docs/explanation/failure-model.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "---" not in line]
    rows = [row for row in rows if not row.startswith(("| what fails", "| what comes"))]
    assert len(rows) > 30
    for row in rows:
        named = re.findall(r"`([a-z]+/\w+\.py)(?:::(\w+))?`", row)
        assert named, row
        for file, test in named:
            source = (ROOT / "tests" / file).read_text()
            assert f"def {test or 'test_'}" in source, (file, test)
