"""A snapshot of zeitlich's becomes entries of a provider's codec where all messages have one shape, and goes back."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadkeep.model import Entry
from threadkeep.storage.limits import ReadLimits
from threadkeep.storage.snapshot_v1 import read_v1, write_v1

TASK = {"id": "a", "subject": "s", "status": "pending", "metadata": {}, "blockedBy": [], "blocks": []}
RESULT = {"type": "tool_result", "tool_use_id": "c1", "content": "42"}
TEXT = {"type": "text", "text": "hi"}
ANSWERED = {"functionResponse": {"id": "c1", "name": "add", "response": {"result": 42}}}


def anthropic(own, role, content, **more):
    return {"id": own, "message": {"role": role, "content": content}, **more}


def google(own, role, *parts):
    return {"id": own, "content": {"role": role, "parts": list(parts)}}


def langchain(kind, own, **data):
    return {"type": kind, "data": {"content": "hi", **({} if own is None else {"id": own}), **data}}


def text_of(value):
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def stored(messages, state=None, dedup_ids=()):
    value = {"v": 1, "messages": [text_of(one) for one in messages], "state": state, "dedupIds": list(dedup_ids)}
    return json.dumps(value).encode()


def read(*messages, state=None, dedup_ids=()):
    return read_v1(stored(messages, state, dedup_ids), thread="t", where="k", limits=ReadLimits(1 << 20))


def written(snapshot, *added):
    body = write_v1([*snapshot.entries, *added], snapshot.state, codec=snapshot.codec, compress=False)
    return json.loads(body)


THREADS = {
    "anthropic": [
        (anthropic("s", "user", "Be brief.", isSystem=True), "system", {"role": "system", "content": "Be brief."}),
        (anthropic("u", "user", "hi"), "user", {"role": "user", "content": "hi"}),
        (anthropic("a", "assistant", [TEXT]), "assistant", {"role": "assistant", "content": [TEXT]}),
        (anthropic("t", "user", [RESULT, RESULT]), "tool", {"role": "user", "content": [RESULT, RESULT]}),
        (anthropic("m", "user", [RESULT, TEXT]), "user", {"role": "user", "content": [RESULT, TEXT]}),
        (anthropic("e", "user", []), "user", {"role": "user", "content": []}),
    ],
    "google-genai": [
        (google("s", "system", {"text": "Be brief."}), "system", {"role": "system", "parts": [{"text": "Be brief."}]}),
        (google("u", "user", {"text": "hi"}), "user", {"role": "user", "parts": [{"text": "hi"}]}),
        (google("a", "model", {"text": "hi"}), "assistant", {"role": "model", "parts": [{"text": "hi"}]}),
        (google("t", "user", ANSWERED), "tool", {"role": "user", "parts": [ANSWERED]}),
        (google("m", "user", ANSWERED, {"text": "x"}), "user", {"role": "user", "parts": [ANSWERED, {"text": "x"}]}),
        (google("e", "user"), "user", {"role": "user", "parts": []}),
    ],
    "langchain": [
        (langchain("system", "s"), "system", langchain("system", "s")),
        (langchain("human", "u", content=[TEXT]), "user", langchain("human", "u", content=[TEXT])),
        (langchain("ai", "a", tool_calls=[]), "assistant", langchain("ai", "a", tool_calls=[])),
        (langchain("tool", "t", tool_call_id="c1"), "tool", langchain("tool", "t", tool_call_id="c1")),
    ],
}


@pytest.mark.parametrize("codec", THREADS)
def test_envelopes_of_one_adapter_become_entries_of_its_codec(codec):
    snapshot = read(*[envelope for envelope, _, _ in THREADS[codec]])
    assert snapshot.codec == codec
    assert [(one.kind, one.body) for one in snapshot.entries] == [(kind, body) for _, kind, body in THREADS[codec]]
    assert {one.fmt for one in snapshot.entries} == {codec}
    assert [one.id for one in snapshot.entries] == ["s", "u", "a", "t", "m", "e"][: len(THREADS[codec])]
    assert [one.meta for one in snapshot.entries] == [{}] * len(THREADS[codec])


@pytest.mark.parametrize("codec", THREADS)
def test_an_export_gives_the_envelopes_back(codec):
    envelopes = [envelope for envelope, _, _ in THREADS[codec]]
    ids = [envelope.get("id") or envelope["data"].get("tool_call_id", envelope["data"]["id"]) for envelope in envelopes]
    state = {"tasks": [["a", TASK]], "custom": {"mood": "calm"}}
    snapshot = read(*envelopes, state=state, dedup_ids=ids)
    assert snapshot.codec == codec
    assert written(snapshot) == json.loads(stored(envelopes, state, ids))


FINE = anthropic("u", "user", "hi")
DEEP = "[" * 101 + "]" * 101
ODD = {
    "no messages": [],
    "two shapes": [FINE, google("g", "user", {"text": "hi"})],
    "text that is no JSON": [FINE, "{"],
    "a value that is no object": [FINE, "[1]"],
    "NaN": ['{"id":"u","message":{"role":"user","content":[{"type":"text","text":NaN}]}}'],
    "a number beyond floats": ['{"id":"u","message":{"role":"user","content":[{"type":"x","n":1E999}]}}'],
    "nested too deep": [
        '{"id":"u","message":{"role":"user","content":[{"type":"x","n":' + "[" * 101 + "]" * 101 + "}]}}"
    ],
    "nested beyond reading": ["[" * 200_000],
    "one more member": [{**FINE, "more": 1}],
    "no id": [{"message": FINE["message"]}],
    "an id that is no string": [anthropic(1, "user", "hi")],
    "isSystem that is not true": [anthropic("u", "user", "hi", isSystem=False)],
    "a system message of another role": [anthropic("u", "assistant", "hi", isSystem=True)],
    "an unknown role": [anthropic("u", "tool", "hi")],
    "a role that is no string": [google("u", ["user"], {"text": "hi"})],
    "an unknown role of Google's": [google("u", "assistant", {"text": "hi"})],
    "content that is no text": [anthropic("u", "user", None)],
    "a block without a type": [anthropic("u", "user", [{"text": "hi"}])],
    "a message of a string": [{"id": "u", "message": "hi"}],
    "a message with one more member": [{"id": "u", "message": {"role": "user", "content": "hi", "name": "x"}}],
    "a content of a string": [{"id": "u", "content": "hi"}],
    "parts that are no list": [{"id": "u", "content": {"role": "user", "parts": "hi"}}],
    "a part that is no object": [google("u", "user", "hi")],
    "an unknown type": [langchain("remove", "r")],
    "a type that is no string": [{"type": {}, "data": {"content": "hi", "id": "u"}}],
    "data that is no object": [{"type": "human", "data": "hi"}],
    "a message without id": [langchain("human", None)],
    "a tool result without a call": [langchain("tool", "t")],
    "an id of LangChain's that is no string": [langchain("tool", 7, tool_call_id="c1")],
    "content that is an object": [langchain("human", "u", content={})],
}


@pytest.mark.parametrize("why", ODD)
def test_anything_else_stays_as_it_is(why):
    texts = [text_of(message) for message in ODD[why]]
    snapshot = read(*texts, state={"tasks": [], "custom": {}})
    assert snapshot.codec == "v1"
    assert [(one.fmt, one.body) for one in snapshot.entries] == [("v1", text) for text in texts]
    assert snapshot.state == {"tasks": [], "custom": {}}
    assert written(snapshot)["messages"] == texts


def test_ids_that_are_not_those_in_the_envelopes_keep_the_thread_as_it_is():
    assert read(FINE, dedup_ids=["u"]).codec == "anthropic"
    snapshot = read(FINE, dedup_ids=["other"])
    assert (snapshot.codec, written(snapshot)["dedupIds"]) == ("v1", ["other"])


def test_a_tool_result_of_langchain_has_its_own_id_if_that_is_free_else_its_calls():
    messages = [
        langchain("ai", "a"),
        langchain("tool", "t", tool_call_id="c1"),
        langchain("tool", "t", tool_call_id="c2"),
        langchain("tool", None, tool_call_id="c3"),
        langchain("tool", None, tool_call_id="c3"),
    ]
    dedup_ids = ["a", "c1", "c2", "c3", "c3"]
    snapshot = read(*messages, dedup_ids=dedup_ids)
    assert [one.id for one in snapshot.entries[:4]] == ["a", "t", "c2", "c3"]
    assert snapshot.entries[4].meta == {"v1_id": "c3"}
    assert written(snapshot) == json.loads(stored(messages, None, dedup_ids))


def test_an_id_that_cannot_be_an_entrys_comes_back_in_the_export():
    messages = [anthropic(own, "user", "hi") for own in ("", "twice", "twice", "x" * 513)]
    snapshot = read(*messages)
    assert len({one.id for one in snapshot.entries}) == 4
    assert [one.meta for one in snapshot.entries] == [{"v1_id": ""}, {}, {"v1_id": "twice"}, {"v1_id": "x" * 513}]
    assert written(snapshot)["messages"] == [text_of(one) for one in messages]


@pytest.mark.parametrize(
    "text",
    [
        '{ "id" : "u", "message": {"role":"user","content":"hi"} }',
        '{"message":{"role":"user","content":"hi"},"id":"u"}',
        '{"id":"u","message":{"role":"user","content":"\\u00e9\\/"}}',
        '{"id":"u","message":{"role":"user","content":[{"type":"x","n":-0,"e":1E5,"dup":1,"dup":2}]}}',
        '{"id":"u","message":{"role":"user","content":"high \\uD83D, in upper case"}}',
    ],
)
def test_text_that_would_come_out_otherwise_is_kept_beside_the_message(text):
    snapshot = read(text)
    assert snapshot.codec == "anthropic"
    assert snapshot.entries[0].meta == {"v1": text}
    assert written(snapshot)["messages"] == [text]


@pytest.mark.parametrize(
    "text",
    [
        '{"id":"u","message":{"role":"user","content":"\\ud83d é 😀 \u2028 \\u0000 \\b\\f\\n\\r\\t\\"\\\\ /"}}',
        '{"id":"u","message":{"role":"user","content":[{"type":"x","n":9007199254740993,"f":1.5,"e":1e+21}]}}',
    ],
)
def test_text_as_javascript_writes_it_needs_no_keeping(text):
    snapshot = read(text)
    assert (snapshot.codec, snapshot.entries[0].meta) == ("anthropic", {})
    assert written(snapshot)["messages"] == [text]


def test_a_message_that_was_changed_does_not_go_back_as_it_came():
    snapshot = read('{ "id":"u", "message":{"role":"user","content":"secret"} }')
    (entry,) = snapshot.entries
    changed = replace(entry, body={"role": "user", "content": "[removed]"})
    assert written(replace(snapshot, entries=[changed]))["messages"] == [text_of(anthropic("u", "user", "[removed]"))]


APPENDED = {
    "anthropic": [
        Entry("n1", "system", {"role": "system", "content": "New rules."}, "anthropic"),
        Entry("n2", "assistant", {"role": "assistant", "content": [TEXT]}, "anthropic", {"model": "m"}),
    ],
    "google-genai": [
        Entry("n1", "system", {"role": "system", "parts": [{"text": "New rules."}]}, "google-genai"),
        Entry("n2", "assistant", {"role": "model", "parts": [{"text": "hi"}]}, "google-genai"),
    ],
    "langchain": [
        Entry("n1", "assistant", langchain("ai", "lc_run--1"), "langchain"),
        Entry("n2", "tool", langchain("tool", None, tool_call_id="c9"), "langchain"),
    ],
}


@pytest.mark.parametrize("codec", THREADS)
def test_what_was_appended_later_goes_out_in_envelopes_too(codec):
    snapshot = read(*[envelope for envelope, _, _ in THREADS[codec]], state={"tasks": [], "custom": {"a": 1}})
    exported = json.dumps(written(snapshot, *APPENDED[codec])).encode()
    again = read_v1(exported, thread="t", where="k", limits=ReadLimits(1 << 20))
    assert (again.codec, again.state) == (codec, {"a": 1})
    assert [(one.kind, one.body) for one in again.entries[-2:]] == [(one.kind, one.body) for one in APPENDED[codec]]
    known = {"langchain": ["lc_run--1", "c9"]}.get(codec, ["n1", "n2"])
    assert json.loads(exported)["dedupIds"][-2:] == known


def test_a_message_of_langchains_without_an_id_goes_out_with_its_entrys():
    snapshot = read(langchain("human", "u"))
    added = Entry("n1", "assistant", {"type": "ai", "data": {"content": "hi", "id": None}}, "langchain")
    out = written(snapshot, added)
    assert json.loads(out["messages"][1]) == {"type": "ai", "data": {"content": "hi", "id": "n1"}}
    assert out["dedupIds"] == ["u", "n1"]


@pytest.mark.parametrize(
    ("fmt", "body"),
    [("plain", {"role": "user", "content": "hi"}), ("openai-chat", {"role": "user"}), ("langchain", {"content": "x"})],
)
def test_what_fits_no_envelope_goes_out_as_the_json_of_its_body(fmt, body):
    out = json.loads(write_v1([Entry("n1", "user", body, fmt)], {"a": 1}, codec="plain", compress=False))
    assert [json.loads(message) for message in out["messages"]] == [body]
    assert (out["dedupIds"], out["state"]) == (["n1"], {"a": 1})


def test_a_message_appended_to_a_thread_that_stayed_as_it_was_goes_out_as_text():
    out = written(read("not json"), Entry("n1", "user", {"role": "user"}, "v1"))
    assert out["messages"] == ["not json", '{"role": "user"}']


@pytest.mark.parametrize(
    ("slice_", "state"),
    [
        (None, None),
        ({"tasks": [], "custom": {}}, {}),
        ({"tasks": [], "custom": {"mood": "calm"}}, {"mood": "calm"}),
        ({"tasks": [["a", TASK]], "custom": {"mood": "calm"}}, {"mood": "calm", "tasks": [["a", TASK]]}),
    ],
)
def test_a_slice_of_state_is_laid_flat_and_goes_back_as_a_slice(slice_, state):
    snapshot = read(FINE, state=slice_)
    assert (snapshot.codec, snapshot.state) == ("anthropic", state)
    assert written(snapshot)["state"] == slice_


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"tasks": []},
        {"tasks": [], "custom": {}, "more": 1},
        {"tasks": {}, "custom": {}},
        {"tasks": [["a"]], "custom": {}},
        {"tasks": [["a", "not a task"]], "custom": {}},
        {"tasks": [[1, TASK]], "custom": {}},
        {"tasks": [], "custom": []},
        {"tasks": [], "custom": {"tasks": []}},
    ],
)
def test_a_state_that_is_no_slice_keeps_the_thread_as_it_is(state):
    snapshot = read(FINE, state=state)
    assert (snapshot.codec, snapshot.state) == ("v1", state)
    assert written(snapshot)["state"] == state


def test_tasks_of_the_apps_own_making_are_not_lost_in_an_export():
    snapshot = replace(read(FINE), state={"tasks": "many", "a": 1})
    assert written(snapshot)["state"] == {"tasks": [], "custom": {"tasks": "many", "a": 1}}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
blocks = st.dictionaries(st.text(), json_values, max_size=3).map(lambda block: {**block, "type": "text"})
envelopes = st.one_of(
    st.builds(anthropic, st.text(), st.sampled_from(["user", "assistant"]), st.text() | st.lists(blocks, max_size=3)),
    st.builds(google, st.text(), st.sampled_from(["user", "model", "system"]), blocks),
    st.builds(langchain, st.sampled_from(["human", "ai"]), st.text(), extra=json_values),
    json_values,
)


@given(st.lists(envelopes, max_size=4), st.booleans(), st.sampled_from([None, 1]))
def test_whatever_was_stored_comes_out_as_the_same_text(values, ascii_only, indent):
    texts = [json.dumps(value, ensure_ascii=ascii_only, indent=indent) for value in values]
    snapshot = read(*texts)
    assert len({one.id for one in snapshot.entries}) == len(texts)
    assert written(snapshot)["messages"] == texts
