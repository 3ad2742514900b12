"""The reference page of the command line says what the command line does."""

import re
from pathlib import Path

import typer.main

from threadkeep.cli import app

PAGE = (Path(__file__).parents[2] / "docs/reference/cli.md").read_text()


def commands():
    """Each command's full name with its options' names."""

    def walk(command, name):
        inner = getattr(command, "commands", None)
        if inner is not None:
            for key, value in inner.items():
                yield from walk(value, f"{name} {key}")
            return
        yield name, {one for param in command.params for one in (*param.opts, *param.secondary_opts) if one[0] == "-"}

    return dict(walk(typer.main.get_command(app), "threadkeep"))


def section(name):
    return PAGE.partition(f"\n## `{name}`\n")[2].partition("\n## ")[0]


def documented(text):
    """Options named in the first column of a section's tables."""
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `-")]
    return {option for cell in cells for option in re.findall(r"(?<![\w-])--?[A-Za-z][a-z-]*", cell)}


def test_every_command_has_its_section_and_every_section_its_command():
    assert re.findall(r"^## `(threadkeep [^`]+)`$", PAGE, re.MULTILINE) == [
        name for name in re.findall(r"^## `(threadkeep [^`]+)`$", PAGE, re.MULTILINE) if name in commands()
    ]
    assert {name for name in commands() if not section(name)} == set()


def test_every_option_is_named_in_its_commands_section_and_no_other():
    wrong = {
        name: documented(section(name)) ^ (options - {"--help", "-h"})
        for name, options in commands().items()
        if documented(section(name)) != options - {"--help", "-h"}
    }
    assert wrong == {}


def test_every_command_has_an_example_and_a_help_text():
    assert {name for name in commands() if "```console" not in section(name)} == set()
    root = typer.main.get_command(app)
    assert {name for name, command in root.commands.items() if not command.help} == set()


def test_the_options_before_any_command_are_named():
    before = PAGE.partition("## Before any command")[2].partition("\n## ")[0]
    options = {one for param in typer.main.get_command(app).params for one in param.opts}
    assert options <= documented(before)
