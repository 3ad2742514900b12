"""Nothing that was stored or sent ever runs: no code is made of data, no shell is asked, no path is followed out."""

import ast
import io
import os
import stat
from functools import cache
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st
from rich.console import Console
from typer.testing import CliRunner

import threadkeep
from threadkeep.cli import transfer
from threadkeep.cli.output import visible
from threadkeep.cli.rendering import brief, parts_of
from threadkeep.cli.show import _message
from threadkeep.config import Settings
from threadkeep.errors import ThreadkeepError
from threadkeep.model import Entry
from threadkeep.session.codecs import NAMES, codec_for
from threadkeep.tasks.adoption import make_app

PACKAGE = Path(threadkeep.__file__).parent

# --- the package's own code -------------------------------------------------------------------------------------------

FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "marshal", "shelve", "yaml", "code", "runpy", "pty", "imp", "xmlrpc"}
DYNAMIC = {"getattr", "setattr", "delattr", "import_module", "attrgetter", "methodcaller", "find_app"}

REASONED = {
    ("__init__.py", "import_module"): "the module is one of a table's values",
    ("__init__.py", "getattr"): "the name is one of a table's keys",
    ("session/__init__.py", "import_module"): "the module is one of a table's values",
    ("session/__init__.py", "getattr"): "the name is one of a table's keys",
    ("session/codecs/__init__.py", "import_module"): "the module is one of a table's values",
    ("session/codecs/__init__.py", "getattr"): "the class is one of a table's values",
    # names that this package's code wrote down, on objects that an app made
    ("session/codecs/anthropic.py", "getattr"): "a field's name, given as a constant by each caller",
    ("session/codecs/google_genai.py", "getattr"): "a constant's names, and fields that a model's class declares",
    ("session/codecs/openai_chat.py", "getattr"): "a field's name, given as a constant by each caller",
    ("session/loop/hooks.py", "getattr"): "a hook's name, given as a constant by each caller",
    ("session/loop/schema.py", "getattr"): "fields that a function's own signature made a model of",
    ("session/loop/state.py", "getattr"): "the fields of a class in this module",
    ("tasks/stores.py", "getattr"): "two constants, in a loop",
    ("tasks/reconcile.py", "getattr"): "the fields of a class in this module",
    ("tasks/inspect.py", "find_app"): "an app that the operator names on the command line, as for `celery -A`",
    # shipped for tests
    ("testing/", "getattr"): "what a test names",
    ("testing/", "setattr"): "the same",
}
"""Calls whose name is no constant, by file: why what was stored or sent cannot choose it."""


@cache
def modules():
    """Each module's path in the package, and its syntax."""
    paths = sorted(PACKAGE.rglob("*.py"))
    return [(path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def calls(tree):
    """Each call's name, as it is written last, and the call."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            yield name, node


def is_constant(node):
    return isinstance(node, ast.Constant)


def is_written_down(node):
    """A text, or one put together from constants of the module: a table's name cannot be a parameter."""
    if isinstance(node, ast.JoinedStr):
        inner = [part.value for part in node.values if isinstance(part, ast.FormattedValue)]
        return all(isinstance(part, ast.Name) and part.id.isupper() for part in inner)
    return is_constant(node)


def reason_for(file, name):
    return next((why for (place, call), why in REASONED.items() if call == name and _is_at(file, place)), None)


def _is_at(file, place):
    return file.startswith(place) if place.endswith("/") else file == place


def test_no_code_is_made_of_data():
    found = []
    for file, tree in modules():
        for name, node in calls(tree):
            is_method = isinstance(node.func, ast.Attribute)
            if name in FORBIDDEN_CALLS and not (is_method and name == "compile") and not reason_for(file, name):
                found.append(f"{file}:{node.lineno}: {name}")
    assert found == []


def test_nothing_is_unpickled():
    found = []
    for file, tree in modules():
        for node in ast.walk(tree):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            found += [f"{file}:{node.lineno}: {name}" for name in names if name.split(".")[0] in FORBIDDEN_MODULES]
    assert found == []


def test_names_that_are_looked_up_are_constants_or_have_a_reason():
    found, used = [], set()
    for file, tree in modules():
        for name, node in calls(tree):
            if name not in DYNAMIC or isinstance(node.func, ast.Attribute):
                continue
            wanted = node.args[0] if name in ("import_module", "find_app") else (node.args[1:2] or [None])[0]
            if is_constant(wanted):
                continue
            used.add((file, name))
            if not reason_for(file, name):
                found.append(f"{file}:{node.lineno}: {name}({ast.unparse(wanted) if wanted else ''})")
    assert found == []
    unused = {(place, name) for place, name in REASONED if not any(n == name and _is_at(f, place) for f, n in used)}
    assert not unused, f"reasons for what is no longer there: {unused}"


def test_no_shell_is_asked():
    found = []
    for file, tree in modules():
        for name, node in calls(tree):
            told = ast.unparse(node.func)
            if told in ("os.system", "os.popen") or told.startswith(("subprocess.getoutput", "subprocess.getstatus")):
                found.append(f"{file}:{node.lineno}: {told}")
            shell = [keyword.value for keyword in node.keywords if keyword.arg == "shell"]
            if any(not (is_constant(value) and value.value is False) for value in shell):
                found.append(f"{file}:{node.lineno}: shell=")
            if told.startswith("subprocess.") and node.args and isinstance(node.args[0], ast.JoinedStr | ast.Constant):
                found.append(f"{file}:{node.lineno}: {name} of a string")
    assert found == []


SQL_WORDS = ("text", "exec_driver_sql", "DDL", "literal_column")


def test_sql_is_written_down_and_takes_its_values_as_parameters():
    found, seen = [], 0
    for file, tree in modules():
        if not file.startswith("storage/"):
            continue
        imported = {
            alias.asname or alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sqlalchemy")
            for alias in node.names
        }
        for name, node in calls(tree):
            is_sqlalchemys = name in imported or ast.unparse(node.func).startswith(("sa.", "sqlalchemy."))
            if name in SQL_WORDS and (is_sqlalchemys or name == "exec_driver_sql"):
                seen += 1
                if not is_written_down(node.args[0]):
                    found.append(f"{file}:{node.lineno}: {ast.unparse(node)}")
    assert found == []
    assert seen > 3


def test_no_script_for_redis_is_put_together_but_from_files():
    """`EVAL` takes a text that was read from the package; everything else goes as an argument."""
    (tree,) = [tree for file, tree in modules() if file == "storage/link.py"]
    commands = [node.elts for node in ast.walk(tree) if isinstance(node, ast.Tuple) and len(node.elts) > 1]
    evals = [elts for elts in commands if is_constant(elts[0]) and elts[0].value == "EVAL"]
    assert len(evals) == 2
    assert all(ast.unparse(elts[1]) == "body.text" for elts in evals)


# --- the broker -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["redis://127.0.0.1/0", "amqp://127.0.0.1//"])
@pytest.mark.parametrize("publisher", [False, True])
def test_only_json_is_taken_from_the_broker(url, publisher):
    conf = make_app(Settings.load(broker_url=url), publisher=publisher).conf
    assert conf.accept_content == ["json"]
    assert set(conf.result_accept_content or conf.accept_content) == {"json"}
    assert (conf.task_serializer, conf.result_serializer) == ("json", "json")


# --- what providers' codecs make of stored bodies ---------------------------------------------------------------------


def constructor(target):
    """What LangChain's own loader would make an object of."""
    return {
        "lc": 1,
        "type": "constructor",
        "id": target.split("."),
        "kwargs": {"command": "touch {mark}", "args": ["a"]},
    }


BAITS = [
    constructor("os.system"),
    constructor("langchain_core.prompts.PromptTemplate"),
    {
        "type": "human",
        "data": {"content": "{{ cycler.__init__.__globals__ }}", "additional_kwargs": constructor("os.system")},
    },
    {
        "type": "ai",
        "data": {"content": [{"type": "text", "text": "x"}], "tool_calls": [], "lc": 1, "id": constructor("os.system")},
    },
    {"type": "constructor", "data": {"content": "x"}},
    {
        "__reduce__": ["os.system", ["touch {mark}"]],
        "py/object": "os.system",
        "py/reduce": [{"py/function": "os.system"}],
    },
    {"role": "user", "content": "x", "__class__": "os.system", "__proto__": {"a": 1}},
    {"role": "user", "parts": [{"text": "x", "functionCall": {"name": "__import__", "args": {"name": "os"}}}]},
    {"!!python/object/apply:os.system": ["touch {mark}"]},
    "!!python/object/apply:os.system ['touch {mark}']",
]


def armed(value, mark):
    """The same with the file that it would make if it ran."""
    if isinstance(value, dict):
        return {name: armed(inner, mark) for name, inner in value.items()}
    if isinstance(value, list):
        return [armed(inner, mark) for inner in value]
    return value.replace("{mark}", str(mark)) if isinstance(value, str) else value


@pytest.mark.parametrize("name", NAMES)
def test_a_body_that_asks_to_be_run_is_given_back_as_data(name, tmp_path):
    mark = tmp_path / "ran"
    codec = codec_for(name)
    for bait in BAITS:
        entry = Entry("m1", "assistant", armed(bait, mark), name)
        for use in (codec.native, codec.request, codec.reply):
            try:
                made = use([entry])
            except (ThreadkeepError, ValueError, TypeError, KeyError, AttributeError):
                continue  # refused: what matters here is that nothing ran
            assert "Popen" not in repr(made)
    assert not mark.exists()


def test_langchains_messages_are_messages_and_nothing_else():
    from langchain_core.messages import HumanMessage

    body = {"type": "human", "data": {"content": "x", "additional_kwargs": constructor("os.system")}}
    (made,) = codec_for("langchain").native([Entry("m1", "user", body, "langchain")])
    assert type(made) is HumanMessage
    assert made.additional_kwargs == constructor("os.system")


# --- the terminal -----------------------------------------------------------------------------------------------------

OBEYED = {chr(code) for code in (*range(0x20), 0x7F, *range(0x80, 0xA0))} - {"\n", "\t"}
OBEYED |= set("\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff\u00ad\U000e0041")
SEQUENCES = [
    "\x1b[2J",
    "\x1b]0;title\x07",
    "\x9b31m",
    "\x1bP",
    "\r",
    "\x08\x08",
    "\u202egnp.exe",
    "\x1b]8;;http://x\x1b\\",
]
texts = st.text(st.characters() | st.sampled_from(sorted(OBEYED)), max_size=40) | st.sampled_from(SEQUENCES)


@given(texts)
@tuned(max_examples=500)
def test_nothing_that_a_terminal_would_obey_is_written(text):
    shown = visible(text)
    assert not OBEYED & set(shown)
    assert not any("\ud800" <= character <= "\udfff" for character in shown)
    assert visible(shown) == shown
    if text.isascii() and text.isprintable():
        assert shown == text


bodies = st.recursive(
    texts | st.none() | st.integers(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["role", "content", "type", "text", "tool_calls", "function", "arguments", "name", "parts", "input"]
            )
            | texts,
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(texts, bodies, st.sampled_from(["user", "tool"]), st.booleans())
@tuned(max_examples=300, deadline=None)
def test_a_message_is_shown_without_anything_that_a_terminal_would_obey(message_id, body, kind, full):
    written = io.StringIO()
    console = Console(file=written, force_terminal=False, width=80, highlight=False, emoji=False)
    _message(console, 1, Entry(message_id or "m", kind, body, meta={"ts": message_id}), full=full)
    assert not OBEYED & set(written.getvalue())


@given(st.recursive(texts, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=5))
def test_any_body_can_be_shown(body):
    for part in parts_of(body):
        brief(part)


@pytest.mark.parametrize("depth", [10, 400, 900, 100_000])
@pytest.mark.parametrize("level", ['{"message":{"content":', '{"content":', "[", '{"tool_calls":['])
def test_a_text_nested_without_end_is_shown_as_text(level, depth):
    closing = {"{": "}", "[": "]"}
    text = level * depth + '"x"' + "".join(closing[each] for each in reversed(level) if each in closing) * depth
    assert parts_of(text)
    assert parts_of({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": text}}]})


def test_an_error_on_stderr_holds_nothing_that_a_terminal_would_obey(capsys):
    from threadkeep.cli.exits import refuse

    refuse("".join(SEQUENCES))
    assert not OBEYED & set(capsys.readouterr().err)


# --- files ------------------------------------------------------------------------------------------------------------


def test_an_export_goes_through_no_link_that_somebody_laid_beside_it(tmp_path, monkeypatch):
    """In a folder that others may write to, a guessed name of a part would be a way to any file of the user's."""
    victim, output = tmp_path / "victim", tmp_path / "thread.jsonl"
    victim.write_bytes(b"precious")
    monkeypatch.setattr(transfer, "fresh_mark", lambda: "guessed")
    (tmp_path / ".guessed.part").symlink_to(victim)
    with pytest.raises(typer.Exit):
        transfer._write(output, b"exported")
    assert victim.read_bytes() == b"precious"


def test_an_export_over_a_link_replaces_the_link_alone(tmp_path):
    victim, output = tmp_path / "victim", tmp_path / "thread.jsonl"
    victim.write_bytes(b"precious")
    output.symlink_to(victim)
    transfer._write(output, b"exported")
    assert (victim.read_bytes(), output.read_bytes(), output.is_symlink()) == (b"precious", b"exported", False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["thread.jsonl", "victim"]


def test_an_export_into_a_device_or_a_pipe_leaves_it_what_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    transfer._write(pipe, b"exported")
    assert os.read(reader, 100) == b"exported"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    transfer._write(Path(os.devnull), b"exported")
    assert stat.S_ISCHR(Path(os.devnull).stat().st_mode)


def test_a_file_without_an_end_is_not_read_to_its_end(tmp_path):
    with pytest.raises(typer.Exit):
        transfer._read("/dev/zero", 1_000_000)
    sound = tmp_path / "sound"
    sound.write_bytes(b"x" * 1_000)
    assert transfer._read(str(sound), 1_000) == (str(sound), b"x" * 1_000)


def test_a_name_of_a_thread_is_never_a_name_of_a_file():
    """Of what the command line writes, the operator names the file: an id has no way into its path."""
    told = CliRunner().invoke(transfer.commands, ["export", "--help"])
    assert "--output" in told.output
    tree = next(tree for file, tree in modules() if file == "cli/transfer.py")
    opened = [
        ast.unparse(node)
        for name, node in calls(tree)
        if name in ("open", "write_bytes", "replace", "Path", "with_name")
    ]
    assert opened
    assert not any("ref" in each or "id" in each.split("(")[1].split(",") for each in opened)
