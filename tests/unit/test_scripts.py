"""What is sent of the prelude with an operation: all that it uses, in order, and nothing else."""

import re
from importlib.resources import files

import pytest

from threadkeep.storage.scripts import needed, script

LUA = files("threadkeep.storage") / "lua"
PRELUDE = (LUA / "prelude.lua").read_text()
NAMES = sorted(item.name.removesuffix(".lua") for item in LUA.iterdir() if item.name != "prelude.lua")
DEFINITION = re.compile(r"^local (?:function )?([\w, ]+)", re.MULTILINE)

TOY = """
-- One.
local A, B = 1, 2

local unused = 7  -- not used by b

-- Speaks of unused, and uses A.
local function a() return A end

local function b()
  return a()
end
"""


def code_of(text):
    return re.sub(r"--[^\n]*", "", text)


def defined(text):
    return [name.strip() for found in DEFINITION.findall(code_of(text)) for name in found.split(",")]


def test_what_is_used_comes_with_what_that_uses_in_turn():
    assert [defined(block) for block in needed(TOY, "return b()")] == [["A", "B"], ["a"], ["b"]]
    assert [defined(block) for block in needed(TOY, "return B -- and not a()")] == [["A", "B"]]
    assert needed(TOY, "return 1") == []


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_defined_before_it_is_used_and_used_once_it_is_defined(name):
    code = code_of(script(name).text)
    for each in defined(PRELUDE):
        uses = [found.start() for found in re.finditer(rf"\b{each}\b", code)]
        if uses:
            definition = re.search(rf"^local (?:function )?(?:[\w, ]*\b)?{each}\b", code, re.MULTILINE)
            assert definition is not None, each
            assert uses[0] == definition.end() - len(each), each
    for block in needed(PRELUDE, (LUA / f"{name}.lua").read_text()):
        assert any(len(re.findall(rf"\b{each}\b", code)) > 1 for each in defined(block)), block


@pytest.mark.parametrize("name", NAMES)
def test_an_operation_comes_last_and_as_its_file_has_it(name):
    assert script(name).text.endswith((LUA / f"{name}.lua").read_text())


def test_all_of_the_prelude_is_used_by_some_operation():
    used = {block for name in NAMES for block in needed(PRELUDE, (LUA / f"{name}.lua").read_text())}
    assert used == set(PRELUDE.strip().split("\n\n"))
