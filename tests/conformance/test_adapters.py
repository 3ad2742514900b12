"""What zeitlich asks of its adapters for Anthropic, Google and LangChain, and a session does here for any of them.

Each test bears the title of the one that it answers to; docs/reference/conformance.md pairs them, and names tests of
the codecs for the rest. A dagger marks a result that differs on purpose.
"""

from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
from google import genai
from google.genai import types
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage

from tests.conformance.scripted import Scripted, archived, ask, cool, hooks
from tests.sdk.fake_provider import FakeProvider
from threadkeep.config import Settings
from threadkeep.errors import MessageConflict
from threadkeep.session import Hooks, Usage
from threadkeep.session.codecs.google_cache import STATE_KEY, ContextCache

PROMPT = "You are helpful."


class Anthropic:
    """Neighbours of one role travel as one message, and the system prompt apart.

    Each of these classes makes and reads messages of one provider: `user` and `answer` make them, `text` and `retold`
    are of stored bodies, `reworded` of messages on their way, `prompt`, `messages` and `said` of whole requests.

    Attributes:
        options: What requests are made with.
        turns: What `source` says, the text of each message on its way.
        prompt_is_a_message: Whether it is one on its way.
    """

    codec = "anthropic"
    options: ClassVar = {"cache": False}
    turns: ClassVar = [["Hello", "Anyone?"], ["Hi there!"]]
    prompt_is_a_message = False

    def user(self, text):
        return {"role": "user", "content": [{"type": "text", "text": text}]}

    def answer(self, text):
        return {"role": "assistant", "content": [{"type": "text", "text": text}]}

    def text(self, body):
        return body["content"][0]["text"]

    def retold(self, body, text):
        return {**body, "content": [{"type": "text", "text": text}]}

    reworded = retold

    def prompt(self, request):
        return request["system"]

    def messages(self, request):
        return request["messages"]

    def said(self, request):
        return [[block["text"] for block in message["content"]] for message in request["messages"]]


class Google:
    """The same, in other words."""

    codec = "google-genai"
    options: ClassVar = {}
    turns: ClassVar = Anthropic.turns
    prompt_is_a_message = False

    def user(self, text):
        return {"role": "user", "parts": [{"text": text}]}

    def answer(self, text):
        return {"role": "model", "parts": [{"text": text}]}

    def text(self, body):
        return body["parts"][0]["text"]

    def retold(self, body, text):
        return {**body, "parts": [{"text": text}]}

    reworded = retold

    def prompt(self, request):
        return request["config"]["system_instruction"]["parts"][0]["text"]

    def messages(self, request):
        return request["contents"]

    def said(self, request):
        return [[part["text"] for part in content["parts"]] for content in request["contents"]]


class LangChain:
    """Each message travels by itself as an object, the system prompt first."""

    codec = "langchain"
    options: ClassVar = {}
    turns: ClassVar = [["Hello"], ["Anyone?"], ["Hi there!"]]
    prompt_is_a_message = True

    def user(self, text):
        return HumanMessage(text)

    def answer(self, text):
        return AIMessage(text)

    def text(self, body):
        return body["data"]["content"]

    def retold(self, body, text):
        return {**body, "data": {**body["data"], "content": text}}

    def reworded(self, message, text):
        return message.model_copy(update={"content": text})

    def prompt(self, request):
        return request["input"][0].content

    def messages(self, request):
        return request["input"]

    def said(self, request):
        return [[message.content] for message in request["input"] if not isinstance(message, SystemMessage)]


@pytest.fixture(params=[Anthropic, Google, LangChain], ids=lambda kind: kind.codec)
def adapter(request):
    """A provider, as far as these tests must know one."""
    return request.param()


@pytest.fixture
def source(face, adapter, thread_id):
    """The id of a thread in which something was said."""
    with face.new(thread_id, codec=adapter.codec, system=PROMPT) as session:
        said = adapter.user("Hello"), adapter.user("Anyone?"), adapter.answer("Hi there!")
        session.append(*said, ids=["m1", "m2", "m3"])
    return thread_id


def request_of(session, adapter, **hooks):
    return session.request(hooks=SimpleNamespace(**hooks), **adapter.options)


def retold(adapter, entry, mark):
    """An entry with a mark before its text; a system prompt as it is."""
    if entry.kind == "system":
        return entry
    return replace(entry, body=adapter.retold(entry.body, mark + adapter.text(entry.body)))


def texts(adapter, thread):
    """What is said in a thread, but for the system prompt."""
    return [adapter.text(entry.body) for entry in thread.entries if entry.kind != "system"]


# --- thread-manager.test.ts -------------------------------------------------------------------------------------------


def test_transforms_stored_messages_before_system_extraction_and_merge(face, adapter, source):
    seen = []

    def marked(entry, index, entries):
        seen.append((entry, index, list(entries)))
        return retold(adapter, entry, "[m] ")

    with face.open(source) as session:
        stored = session.entries
        request = request_of(session, adapter, on_prepare=marked)
        assert session.entries == stored
    assert [entry.kind for entry in stored] == ["system", "user", "user", "assistant"]
    assert seen == [(entry, index, stored) for index, entry in enumerate(stored)]
    assert adapter.prompt(request) == PROMPT
    assert adapter.said(request) == [[f"[m] {text}" for text in turn] for turn in adapter.turns]


def test_hooks_are_not_called_when_not_configured(face, adapter, source):
    with face.open(source) as session:
        for nothing in (None, Hooks(), SimpleNamespace(on_prepare=None)):
            request = session.request(hooks=nothing, **adapter.options)
            assert adapter.prompt(request) == PROMPT
            assert adapter.said(request) == adapter.turns


def test_transforms_native_messages_after_merge(face, adapter, source):
    def done(message, index, messages):
        return adapter.reworded(message, f"[post] {index} of {len(messages)}")

    with face.open(source) as session:
        stored = session.entries
        request = request_of(session, adapter, on_prepared=done)
        assert session.entries == stored
    sent = len(adapter.turns) + adapter.prompt_is_a_message
    places = range(adapter.prompt_is_a_message, sent)
    assert adapter.said(request) == [[f"[post] {place} of {sent}"] for place in places]


def test_receives_the_full_prepared_messages_array(face, adapter, source):
    seen = []

    def noted(message, index, messages):
        seen.append((message, index, list(messages)))
        return message

    with face.open(source) as session:
        sent = adapter.messages(request_of(session, adapter, on_prepared=noted))
    assert seen == [(message, index, sent) for index, message in enumerate(sent)]
    assert len(sent) == len(adapter.turns) + adapter.prompt_is_a_message


def test_runs_on_prepare_before_on_prepared(face, adapter, thread_id):
    order = []

    def before(entry, index, entries):
        order.append(("pre", index))
        return entry

    def after(message, index, messages):
        order.append(("post", index))
        return message

    given = SimpleNamespace(on_prepared=after, on_prepare=before)
    with face.new(thread_id, codec=adapter.codec) as session:
        ask(face, session, Scripted(adapter.answer("Hi there!")), input="Hello", hooks=given)
    assert order == [("pre", 0), ("post", 0)]


def test_on_prepared_sees_results_of_on_prepare(face, adapter, thread_id):
    seen = []

    def before(entry, index, entries):
        return retold(adapter, entry, "[pre] ")

    def after(message, index, messages):
        seen.append(message)
        return adapter.reworded(message, "[post]")

    with face.new(thread_id, codec=adapter.codec) as session:
        session.append(adapter.user("Hello"))
        request = request_of(session, adapter, on_prepare=before, on_prepared=after)
        before_only = request_of(session, adapter, on_prepare=before)
    assert seen == adapter.messages(before_only)
    assert adapter.said(before_only) == [["[pre] Hello"]]
    assert adapter.said(request) == [["[post]"]]


# --- fork-transform.test.ts -------------------------------------------------------------------------------------------


def test_behaves_like_fork_when_neither_fork_hook_is_configured(face, adapter, source):
    before = face.read(source)
    for nothing in (None, Hooks(), SimpleNamespace(on_fork_prepare=None)):
        with face.fork(source, hooks=nothing) as fork:
            assert fork.entries == before.entries
            assert fork.codec == adapter.codec
    assert face.read(source) == before


def test_applies_on_fork_transform_alone_as_a_per_message_map(face, adapter, source, tiers):
    before, seen = face.read(source), []

    def numbered(entry, index, entries):
        seen.append((entry, index, list(entries)))
        return retold(adapter, entry, f"[T{index}] ")

    with face.fork(source, hooks=SimpleNamespace(on_fork_transform=numbered)) as fork:
        pass
    assert seen == [(entry, index, before.entries) for index, entry in enumerate(before.entries)]
    thread = archived(face, tiers, fork.id)
    assert thread.entries == [retold(adapter, entry, f"[T{index}] ") for index, entry in enumerate(before.entries)]
    assert texts(adapter, thread) == ["[T1] Hello", "[T2] Anyone?", "[T3] Hi there!"]


def test_applies_on_fork_prepare_alone_and_may_change_list_length(face, adapter, source, tiers):
    before, seen = face.read(source), []

    def summed_up(entries):
        seen.append(list(entries))
        summary = replace(retold(adapter, entries[1], "Summary of: "), id="summary-1")
        return [entries[0], summary, *entries[3:]]

    with face.fork(source, hooks=hooks(face, on_fork_prepare=summed_up)) as fork:
        assert fork.count == 3
    assert seen == [before.entries]
    thread = archived(face, tiers, fork.id)
    assert [entry.id for entry in thread.entries[1:]] == ["summary-1", "m3"]
    assert texts(adapter, thread) == ["Summary of: Hello", "Hi there!"]


def test_runs_on_fork_prepare_before_on_fork_transform_and_passes_prepared_list_as_messages(face, adapter, source):
    entries, seen = face.read(source).entries, []

    def shortened(entries):
        seen.append("prepare")
        return entries[1:-1]

    def numbered(entry, index, entries):
        seen.append((entry, index, list(entries)))
        return retold(adapter, entry, f"[x{index}] ")

    given = hooks(face, on_fork_prepare=shortened)
    given.on_fork_transform = numbered
    with face.fork(source, hooks=given) as fork:
        assert texts(adapter, fork) == ["[x0] Hello", "[x1] Anyone?"]
    left = entries[1:-1]
    assert seen == ["prepare", (left[0], 0, left), (left[1], 1, left)]


def test_keeps_the_source_thread_untouched(face, adapter, source, tiers):
    before = face.read(source)
    given = hooks(face, on_fork_prepare=lambda entries: entries[:2])
    given.on_fork_transform = lambda entry, *_: retold(adapter, entry, "mutated ")
    with face.fork(source, hooks=given) as fork:
        assert texts(adapter, fork) == ["mutated Hello"]
        fork.append(adapter.user("Only here"))
    assert face.read(source) == before
    assert archived(face, tiers, source).entries == before.entries


def test_accepts_replays_of_what_a_fork_dropped_and_knows_what_it_copied(face, adapter, source, tiers):
    """† What was copied is known by its id: a repeat stores nothing, where zeitlich stores it twice."""
    given = hooks(face, on_fork_prepare=lambda entries: entries[:2])
    given.on_fork_transform = lambda entry, *_: retold(adapter, entry, "[replaced] ")
    with face.fork(source, hooks=given) as fork:
        fork.append(adapter.user("[replaced] Hello"), id="m1")
        with pytest.raises(MessageConflict):
            fork.append(adapter.user("Hello"), id="m1")
        fork.append(adapter.user("Anyone?"), id="m2")
    thread = archived(face, tiers, fork.id)
    assert [entry.id for entry in thread.entries[1:]] == ["m1", "m2"]
    assert texts(adapter, thread) == ["[replaced] Hello", "Anyone?"]


# --- model-invoker.test.ts and activities.test.ts: how long a thread is kept ------------------------------------------


def fades_after(tiers, thread_id, seconds):
    """Whether all keys of a thread expire together, within the last moments of so many seconds."""
    left = tiers.hot_keys(thread_id)
    return {"head", "ids"} <= set(left) and all(seconds - 10 < expiry / 1000 <= seconds for expiry in left.values())


def test_re_stamps_hot_keys_at_the_configured_ttl_after_a_repeated_turn(face, adapter, thread_id, tiers):
    """† A turn that is repeated finds its answer stored, and trims nothing; keys expire once nobody writes them."""
    patient = face.tuned(linger_seconds=30)
    with patient.new(thread_id, codec=adapter.codec) as session:
        ask(face, session, Scripted(adapter.answer("Hi there!")), input="Hello", run_id="r", wait_flush=20)
        stored = session.entries
    with patient.open(thread_id) as session:
        assert set(tiers.hot_keys(thread_id).values()) == {-1}
        ended = ask(face, session, Scripted(), input="Hello", run_id="r", wait_flush=20)
        assert session.entries == stored
        assert (ended.reason, ended.turns, ended.archived) == ("completed", 1, True)
    assert fades_after(tiers, thread_id, 30)


def test_defaults_to_15_minutes_when_no_ttl_is_configured(face, adapter, thread_id, tiers):
    """† Instead of 90 days, and counted from the moment at which the archive holds the thread and nobody writes it."""
    default = face.tuned(linger_seconds=Settings.model_fields["linger_seconds"].default)
    with default.new(thread_id, codec=adapter.codec) as session:
        ask(face, session, Scripted(adapter.answer("Hi there!")), input="Hello", wait_flush=20)
    assert fades_after(tiers, thread_id, 900)


def test_forwards_the_ttl_to_the_writes_of_a_run(face, adapter, thread_id, tiers):
    """† Of a copy that the archive holds; until then, whatever a run writes has no expiry."""
    patient = face.tuned(linger_seconds=30)
    seen = []

    def model(request):
        seen.append(set(tiers.hot_keys(thread_id).values()))
        return adapter.answer("Hi there!")

    with patient.new(thread_id, codec=adapter.codec) as session:
        ask(face, session, model, input="Hello", wait_flush=20)
        seen.append(set(tiers.hot_keys(thread_id).values()))
    assert seen == [{-1}, {-1}]
    assert fades_after(tiers, thread_id, 30)


def test_forwards_the_ttl_to_the_writes_of_a_session(face, adapter, thread_id, tiers):
    """† The same: a new thread has no expiry until the archive holds it."""
    patient = face.tuned(linger_seconds=30)
    with patient.new(thread_id, codec=adapter.codec) as session:
        assert tiers.hot_keys(thread_id) == {"head": -1}
        session.append(adapter.user("Hello"))
        assert set(tiers.hot_keys(thread_id).values()) == {-1}
        session.checkpoint(wait=20)
        assert set(tiers.hot_keys(thread_id).values()) == {-1}
    assert fades_after(tiers, thread_id, 30)


# --- google-genai/model-invoker.test.ts: context caches ---------------------------------------------------------------

MODEL = "gemini-3-pro"


def cache_called(name):
    return {"name": name, "model": f"models/{MODEL}", "usageMetadata": {"totalTokenCount": 4200}}


def gemini_says(text):
    candidate = {"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP", "index": 0}
    return {"candidates": [candidate], "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 5}}


@pytest.fixture
def provider():
    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def client(provider):
    options = types.HttpOptions(base_url=provider.url, retry_options=types.HttpRetryOptions(attempts=1))
    with genai.Client(api_key="x", http_options=options) as client:
        yield client


@pytest.fixture
def documents(face, thread_id):
    """The id of a thread with a long beginning."""
    google = Google()
    with face.new(thread_id, codec=google.codec, system=PROMPT) as session:
        session.append(google.user("A long document"), google.answer("Read."), google.user("What does it say?"))
    return thread_id


def test_stores_cache_name_in_redis_after_creation(face, client, provider, documents):
    """† In the thread's state, under a digest of what is in the cache; it is archived and forked with the thread."""
    provider.script(cache_called("cachedContents/1"))
    cache = ContextCache(client, model=MODEL, split_index=2, ttl_seconds=600, clock=lambda: 1000.0)
    with face.open(documents) as session:
        cache.request(session, session.request())
    remembered = {"name": "cachedContents/1", "expires": 1595.0}
    assert list(face.read(documents).state[STATE_KEY].values()) == [remembered]
    with face.fork(documents) as fork:
        assert list(fork.state[STATE_KEY].values()) == [remembered]


def test_reuses_cached_content_name_from_redis_instead_of_creating_a_new_cache(
    face, client, provider, documents, tiers
):
    """† Also when the thread was in the archive alone meanwhile, and not for another prompt."""
    provider.script(cache_called("cachedContents/1"), cache_called("cachedContents/2"))
    cache = ContextCache(client, model=MODEL, split_index=2)
    with face.open(documents) as session:
        first = cache.request(session, session.request())
    cool(face, tiers, documents)
    with face.open(documents) as session:
        again = cache.request(session, session.request())
        assert len(provider.requests) == 1
        session.system("Be brief.")
        other = cache.request(session, session.request())
    assert first == again
    assert (again["config"]["cached_content"], len(again["contents"])) == ("cachedContents/1", 1)
    assert other["config"]["cached_content"] == "cachedContents/2"


def test_reports_cached_write_tokens_from_cache_creation(face, client, provider, documents):
    """† By the cache itself: a run's usage is what the model's answers count."""
    provider.script(cache_called("cachedContents/1"), gemini_says("Nothing."), gemini_says("Still nothing."))
    cache, written = ContextCache(client, model=MODEL, split_index=2), []

    with face.open(documents) as session:

        def model(request):
            asked = cache.request(session, request)
            written.append(cache.last_written)
            return client.models.generate_content(model=MODEL, **asked)

        usage = [ask(face, session, model, input=text).usage for text in (None, "Really?")]
    assert written == [4200, 0]
    assert usage == [Usage(input=10, output=5, requests=1)] * 2
