"""The pages about zeitlich are held to the tests that they name, and the tests of this folder to the page."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "docs/reference/conformance.md"
GUIDE = ROOT / "docs/reference/coming-from-zeitlich.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


@cache
def defined_in(path: Path) -> dict[str, str]:
    """The tests of a file, each with its docstring."""
    found = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.get_docstring(node) or "" for node in found if node.name.startswith("test_")}


def ours() -> dict[str, str]:
    """All tests of this folder but these, by their full names, each with its docstring."""
    files = [path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    return {
        f"tests/conformance/{path.name}::{name}": docstring
        for path in files
        for name, docstring in defined_in(path).items()
    }


def rows(page: Path) -> list[str]:
    """The rows of all tables, without their headings."""
    return re.findall(r"(?<=\n)(?<!\n\n)\|(?!---).*", page.read_text())


@pytest.mark.parametrize("page", [TABLE, GUIDE], ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page):
    named = NAMED.findall(page.read_text())
    assert len(named) > 20
    assert [f"{path}::{name}" for path, name in named if name not in defined_in(ROOT / path)] == []


def test_every_test_of_this_folder_is_in_the_table():
    named = {f"{path}::{name}" for path, name in NAMED.findall(TABLE.read_text())}
    assert set(ours()) - named == set()


def test_no_title_of_zeitlichs_is_there_twice_in_a_section():
    for section in TABLE.read_text().split("\n## ")[1:]:
        titles = [row.split(" | ")[0] for row in re.findall(r"^\| .*", section, re.MULTILINE)]
        assert sorted(set(titles)) == sorted(titles)


def test_a_dagger_stands_in_the_table_where_it_stands_in_the_test():
    marked = {name for row in rows(TABLE) if "| †" in row for name in map("::".join, NAMED.findall(row))}
    assert marked == {name for name, docstring in ours().items() if "†" in docstring}


def test_every_row_of_the_guide_is_shown_by_a_test():
    assert [row for row in rows(GUIDE) if not NAMED.search(row)] == []
