"""Threadkeep with none of the providers' SDKs installed; `make test-core` runs this in an environment of its own."""

import importlib
import pkgutil
from importlib.util import find_spec

import pytest

import threadkeep
from threadkeep import Entry, Threadkeep
from threadkeep.errors import SdkMissing
from threadkeep.session.codecs import NAMES, codec_for

SDKS = ["agents", "anthropic", "google", "langchain_core", "openai"]
ANSWERS = {
    "plain": {"role": "assistant", "content": "hello"},
    "anthropic": {"role": "assistant", "content": [{"type": "text", "text": "hello"}]},
    "google-genai": {"role": "model", "parts": [{"text": "hello"}]},
    "langchain": {"type": "ai", "data": {"content": "hello", "tool_calls": [], "invalid_tool_calls": []}},
    "openai-chat": {"role": "assistant", "content": "hello"},
    "openai-responses": {
        "type": "message",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "hello", "annotations": []}],
    },
}
PURE = sorted(ANSWERS.keys() - {"langchain"})


@pytest.mark.parametrize("name", SDKS)
def test_no_sdk_is_installed_here(name):
    assert find_spec(name) is None


def test_every_module_imports():
    """But for those that Alembic runs, those for tests, which want pytest's plugins, and the one over obstore."""
    walked = pkgutil.walk_packages(threadkeep.__path__, "threadkeep.")
    names = [module.name for module in walked if not {"migrations", "testing"} & set(module.name.split("."))]
    assert len(names) > 80
    assert find_spec("obstore") is None
    names.remove("threadkeep.storage.s3_obstore")
    for name in names:
        importlib.import_module(name)


def test_there_is_an_answer_for_each_codec():
    assert set(NAMES) == {*ANSWERS, "v1"}


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_a_codec_keeps_dicts_and_reads_them(name):
    codec = codec_for(name)
    (part,) = codec.encode(ANSWERS[name], "a")
    entry = Entry.from_record(Entry("a", part.kind, part.body, name, part.meta).to_record())
    assert (entry.kind, codec.reply([entry]).text) == ("assistant", "hello")


def test_native_objects_of_a_missing_framework_are_refused_with_advice():
    codec = codec_for("langchain")
    part = codec.user("hi")
    with pytest.raises(SdkMissing, match=r"pip install 'threadkeep\[langchain\]'"):
        codec.native([Entry("a", part.kind, part.body, "langchain", part.meta)])


@pytest.mark.parametrize("name", PURE)
def test_a_run_is_archived_and_comes_back(name, settings, worker):
    worker()
    with Threadkeep(settings) as keep:
        with keep.new(codec=name, system="Be brief.") as session:
            result = session.run(lambda request: ANSWERS[name], input="hi", tools=[len_of], wait_flush=20)
        assert (result.reason, result.text, result.archived) == ("completed", "hello", True)
        keep.flush(session.id, wait=20)
        with keep.open(session.id) as session:
            assert [entry.kind for entry in session.entries] == ["system", "user", "assistant"]
            assert session.request()


def len_of(text: str) -> int:
    """Count characters."""
    return len(text)
