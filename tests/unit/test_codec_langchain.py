"""LangChain's messages as values: what is kept of their dicts, and what is read from it. No SDK is loaded."""

import sys
from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadkeep.errors import EmptyReply, InvalidMessage, SdkMissing
from threadkeep.model import Entry
from threadkeep.session.codecs import codec_for
from threadkeep.session.codecs.base import Reply, ToolCall, Usage
from threadkeep.session.codecs.langchain import LangChainCodec
from threadkeep.session.codecs.langchain_cache import append_cache_point
from threadkeep.strict_json import dump_json

CODEC = LangChainCodec()
CALL = ToolCall("c1", "weather", {})


def kept(*parts):
    """Parts as entries that went through a store."""
    entries = [Entry(f"m{at}", part.kind, part.body, "langchain", part.meta) for at, part in enumerate(parts)]
    return [Entry.from_record(entry.to_record()) for entry in entries]


def ai(content="", **data):
    return {"type": "ai", "data": {"content": content, **data}}


def call(call_id=None, name="weather", **args):
    return {"name": name, "args": args, "id": call_id, "type": "tool_call"}


def bad(call_id=None, name="weather", args="{"):
    return {"name": name, "args": args, "id": call_id, "error": "no JSON", "type": "invalid_tool_call"}


def stored(message):
    [entry] = kept(*CODEC.encode(message, "m0"))
    return entry


# --- encode ---------------------------------------------------------------------------------------------------------


def test_the_codec_is_found_by_its_name():
    assert codec_for("langchain").name == "langchain"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ({"type": "human", "data": {"content": "Hi", "id": "theirs"}}, "user"),
        ({"type": "system", "data": {"content": "Be brief."}}, "system"),
        (ai("Hello", id="lc_run--1", tool_calls=[], additional_kwargs={"x": None}), "assistant"),
        ({"type": "tool", "data": {"content": "sunny", "tool_call_id": "c"}}, "tool"),
        ({"type": "function", "data": {"content": "sunny", "name": "f"}}, "tool"),
        ({"type": "chat", "data": {"content": "x", "role": "assistant"}}, "assistant"),
        ({"type": "chat", "data": {"content": "x", "role": "moderator"}}, "user"),
    ],
)
def test_a_message_dict_is_kept_as_it_is_whoever_wrote_it(message, kind):
    [part] = CODEC.encode(message, "m")
    assert (part.kind, part.body) == (kind, message)


@pytest.mark.parametrize(
    ("message", "body"),
    [
        ({"role": "user", "content": "Hi"}, {"type": "human", "data": {"content": "Hi"}}),
        ({"role": "developer", "content": "s"}, {"type": "system", "data": {"content": "s"}}),
        ({"role": "assistant", "content": "Hello"}, {"type": "ai", "data": {"content": "Hello"}}),
        (
            {"role": "tool", "content": "x", "tool_call_id": "c"},
            {"type": "tool", "data": {"content": "x", "tool_call_id": "c"}},
        ),
    ],
)
def test_a_dict_with_a_role_becomes_a_message(message, body):
    [part] = CODEC.encode(message, "m")
    assert part.body == body


def test_the_dict_of_a_chunk_is_kept_as_the_message_that_it_was_part_of():
    data = {"content": "x", "type": "AIMessageChunk", "tool_call_chunks": [], "chunk_position": "last"}
    [part] = CODEC.encode({"type": "AIMessageChunk", "data": data}, "m")
    assert part.body == {"type": "ai", "data": {"content": "x", "type": "ai"}}
    [part] = CODEC.encode({"type": "HumanMessageChunk", "data": {"content": "x"}}, "m")
    assert part.body == {"type": "human", "data": {"content": "x"}}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("Hi", "message"),
        ({"content": "Hi"}, "message"),
        ({"type": "remove", "data": {"content": "", "id": "1"}}, "message.type"),
        ({"role": "narrator", "content": "x"}, "message.type"),
        ({"type": "human", "data": {}}, "message.content"),
        ({"type": "human", "data": {"content": [1]}}, "message.content"),
        ({"type": "human", "data": {"content": {"type": "text"}}}, "message.content"),
        ({"type": "tool", "data": {"content": "x"}}, "message.tool_call_id"),
        ({"role": "assistant", "content": "", "tool_calls": [{"id": "c", "function": {}}]}, "message.tool_calls"),
        ([ai("x")], "message"),
        (ai("x", additional_kwargs={"a": object()}), "message"),
    ],
)
def test_what_is_no_message_is_refused(message, field):
    with pytest.raises(InvalidMessage) as caught:
        CODEC.encode(message, "m")
    assert caught.value.field == field


@pytest.mark.parametrize(
    "message", [ai(), ai([]), ai(tool_calls=[], response_metadata={"finish_reason": "SAFETY"}), []]
)
def test_an_answer_that_holds_nothing_is_an_empty_reply(message):
    with pytest.raises(EmptyReply) as caught:
        CODEC.encode(message, "m")
    assert caught.value.stop in ("", "SAFETY")


@pytest.mark.parametrize("data", [{"tool_calls": [call("c")]}, {"additional_kwargs": {"refusal": "no"}}])
def test_an_answer_without_text_is_kept_if_it_holds_anything_else(data):
    assert CODEC.encode(ai(**data), "m")[0].body["data"]["content"] == ""


def test_bytes_are_stored_as_base64():
    image = {"type": "image", "base64": b"\xfb\xff", "mime_type": "image/png"}
    [part] = CODEC.encode({"type": "human", "data": {"content": [image]}}, "m")
    assert part.body["data"]["content"] == [{"type": "image", "base64": "+/8=", "mime_type": "image/png"}]


@pytest.mark.parametrize("artifact", [object(), b"raw", {1, 2}, {1: "a"}, float("nan")])
def test_an_artifact_that_is_no_json_stays_behind(artifact):
    message = {"type": "tool", "data": {"content": "x", "tool_call_id": "c", "artifact": artifact}}
    [part] = CODEC.encode(message, "m")
    assert part.body["data"] == {"content": "x", "tool_call_id": "c", "artifact": None}
    assert part.meta == {"dropped": ["artifact"]}
    assert message["data"]["artifact"] is artifact


def test_an_artifact_that_is_json_is_kept():
    [part] = CODEC.encode({"type": "tool", "data": {"content": "x", "tool_call_id": "c", "artifact": {"a": [1]}}}, "m")
    assert (part.body["data"]["artifact"], part.meta) == ({"a": [1]}, {})


def test_facts_about_an_answer_that_are_no_json_stay_behind():
    [part] = CODEC.encode(ai("x", response_metadata={"at": object(), "model": "m1"}), "m")
    assert part.body["data"]["response_metadata"] == {"model": "m1"}
    assert part.meta == {"model": "m1", "dropped": ["response_metadata.at"]}


def test_what_is_known_of_an_answer_goes_to_its_meta_and_its_provider_id_stays():
    usage = {"input_tokens": 1, "output_tokens": 2, "total_tokens": 3}
    known = {"model_name": "m1", "finish_reason": "stop"}
    [part] = CODEC.encode(ai("x", id="resp_1", usage_metadata=usage, response_metadata=known), "m")
    assert part.meta == {"model": "m1", "stop": "stop", "usage": usage, "native_id": "resp_1"}
    assert part.body["data"]["id"] == "resp_1"


# --- calls ----------------------------------------------------------------------------------------------------------


def test_calls_are_read_from_what_is_stored():
    entry = stored(ai(tool_calls=[call("c1", city=None), call("c2", name="time")]))
    assert CODEC.calls(entry) == [ToolCall("c1", "weather", {"city": None}), ToolCall("c2", "time", {})]


def test_calls_without_an_id_get_one_that_is_stored_with_them():
    message = ai(tool_calls=[call(), call("given"), call("")], invalid_tool_calls=[bad()])
    entry = stored(message)
    data = entry.body["data"]
    ids = [each["id"] for each in [*data["tool_calls"], *data["invalid_tool_calls"]]]
    assert [each.id for each in CODEC.calls(entry)] == ids
    assert len(set(ids)) == 4
    assert [len(each) for each in ids] == [16, 5, 16, 16]
    assert stored(message) == entry
    assert message["data"]["tool_calls"][0]["id"] is None


def test_ids_made_for_imported_calls_are_the_same_each_time():
    entry = Entry("m\ud800", "assistant", ai(tool_calls=[call()]), "langchain")
    assert CODEC.calls(entry)[0].id == CODEC.calls(entry)[0].id != ""


def test_a_call_whose_arguments_are_no_json_must_not_be_run():
    [found] = CODEC.calls(stored(ai(invalid_tool_calls=[bad("c", args='{"a":')])))
    assert found == ToolCall("c", "weather", '{"a":', "its arguments are not valid JSON")


@pytest.mark.parametrize(
    "raw",
    [
        {"content": [{"type": "tool_use", "id": "c1"}, {"type": "tool_use", "id": "c2"}]},
        {
            "content": [
                {"type": "function_call", "id": "f", "call_id": "c1"},
                {"type": "function_call", "call_id": "c2"},
            ]
        },
        {"content": "x", "additional_kwargs": {"tool_calls": [{"id": "c1"}, {"id": "c2"}]}},
    ],
)
def test_calls_keep_the_order_that_the_model_gave_them(raw):
    calls = CODEC.calls(
        stored({"type": "ai", "data": {**raw, "tool_calls": [call("c2")], "invalid_tool_calls": [bad("c1")]}})
    )
    assert [each.id for each in calls] == ["c1", "c2"]


def test_calls_of_which_nothing_else_is_known_come_before_the_broken_ones():
    calls = CODEC.calls(stored(ai(tool_calls=[call("a"), call("b")], invalid_tool_calls=[bad("c")])))
    assert [each.id for each in calls] == ["a", "b", "c"]


@pytest.mark.parametrize(
    "known",
    [
        {"finish_reason": "length"},
        {"stop_reason": "max_tokens"},
        {"finish_reason": "MAX_TOKENS"},
        {"finish_reason": "MALFORMED_FUNCTION_CALL"},
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
    ],
)
def test_the_last_call_of_an_answer_that_was_cut_short_must_not_be_run(known):
    first, last = CODEC.calls(stored(ai(tool_calls=[call("a"), call("b")], response_metadata=known)))
    assert first.problem == ""
    assert last.problem.startswith("the answer was cut short")


def test_only_answers_make_calls_and_only_results_answer_them():
    result, said, asked = kept(
        CODEC.result(CALL, "x"), CODEC.user("x"), *CODEC.encode(ai(tool_calls=[call("c1")]), "m")
    )
    assert [CODEC.answers(each) for each in (result, said, asked)] == [["c1"], [], []]
    assert CODEC.calls(result) == CODEC.calls(said) == []


# --- replies --------------------------------------------------------------------------------------------------------


def test_a_reply_has_the_visible_text_the_calls_and_the_tokens():
    blocks = [
        {"type": "reasoning", "text": "hm"},
        {"type": "text", "text": "Let me "},
        "see.",
        {"type": "tool_use", "id": "c"},
    ]
    usage = {
        "input_tokens": 100,
        "output_tokens": 50,
        "total_tokens": 150,
        "input_token_details": {"cache_read": 60, "cache_creation": 20},
        "output_token_details": {"reasoning": 30},
    }
    known = {"stop_reason": "tool_use"}
    message = ai(blocks, tool_calls=[call("c")], usage_metadata=usage, response_metadata=known)
    reply = CODEC.reply([stored(message)])
    assert (reply.text, reply.stop, reply.again) == ("Let me see.", "tool_use", False)
    assert reply.calls == [ToolCall("c", "weather", {})]
    assert reply.usage == Usage(100, 50, cache_read=60, cache_write=20, reasoning=30, requests=1)


def test_cache_writes_counted_by_their_length_are_added_up():
    details = {"cache_creation": 0, "ephemeral_5m_input_tokens": 80, "ephemeral_1h_input_tokens": None}
    usage = {"input_tokens": 100, "output_tokens": 1, "total_tokens": 101, "input_token_details": details}
    assert CODEC.reply([stored(ai("x", usage_metadata=usage))]).usage.cache_write == 80


@pytest.mark.parametrize("data", [{}, {"usage_metadata": None, "response_metadata": {}}])
def test_a_reply_without_any_facts_counts_one_request(data):
    reply = CODEC.reply([stored(ai("x", **data))])
    assert (reply.text, reply.usage, reply.stop) == ("x", Usage(requests=1), "")
    assert CODEC.reply([]) == Reply()


def test_a_stored_dict_with_a_role_is_read_like_a_message():
    answer = Entry("a", "assistant", {"role": "assistant", "content": "x", "tool_calls": [call("c")]}, "langchain")
    result = Entry("t", "tool", {"role": "tool", "content": "y", "tool_call_id": "c"}, "langchain")
    assert (CODEC.reply([answer]).text, CODEC.answers(result)) == ("x", ["c"])
    assert [each.id for each in CODEC.calls(answer)] == ["c"]


# --- what a user and a tool say -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("sunny", "sunny"),
        ([{"type": "text", "text": "sunny"}], [{"type": "text", "text": "sunny"}]),
        ({"sky": None}, '{"sky":null}'),
        (21.5, "21.5"),
        (True, "true"),
        (None, ""),
        ([], "[]"),
        (["a"], '["a"]'),
        ([{"no": "type"}], '[{"no":"type"}]'),
    ],
)
def test_a_result_is_text_or_content_blocks(content, said):
    part = CODEC.result(CALL, content)
    assert part.kind == "tool"
    assert part.body == {
        "type": "tool",
        "data": {"content": said, "tool_call_id": "c1", "name": "weather", "status": "success"},
    }


def test_a_failed_result_says_so():
    assert CODEC.result(CALL, "boom", error=True).body["data"]["status"] == "error"


@pytest.mark.parametrize("content", [None, 1, {"type": "text"}, [1]])
def test_a_user_says_text_or_blocks(content):
    assert CODEC.user(["Hi", {"type": "text", "text": "x"}]).body["data"]["content"][0] == "Hi"
    with pytest.raises(InvalidMessage):
        CODEC.user(content)


def test_a_system_prompt_is_a_message_of_its_own():
    part = CODEC.system("Be brief.")
    assert (part.kind, part.body) == ("system", {"type": "system", "data": {"content": "Be brief."}})


# --- what needs the framework ---------------------------------------------------------------------------------------


def test_without_langchain_messages_are_kept_and_read_but_not_rebuilt(monkeypatch):
    monkeypatch.setitem(sys.modules, "langchain_core.messages", None)
    entry = stored(ai("x", tool_calls=[call("c")]))
    assert CODEC.reply([entry]).text == "x"
    for rebuild in (CODEC.native, CODEC.request):
        with pytest.raises(SdkMissing, match=r"pip install 'threadkeep\[langchain\]'"):
            rebuild([entry])


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError):
        CODEC.request([], cache="5m")


def test_every_answer_is_one_entry_so_that_any_place_is_fit_to_cut():
    entries = kept(CODEC.user("a"), *CODEC.encode(ai(tool_calls=[call("c1")]), "m"), CODEC.result(CALL, "x"))
    assert [CODEC.cut(entries, at) for at in range(4)] == [0, 1, 2, 3]


def test_a_hook_for_cache_points_needs_room_for_one():
    with pytest.raises(ValueError, match="max_blocks is 0"):
        append_cache_point({"type": "cachePoint"}, 0)


# --- any message ----------------------------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=8), JSON, max_size=3)
IDS = st.none() | st.text(max_size=6)
BLOCKS = st.one_of(st.text(), st.builds(lambda kind, more: {**more, "type": kind}, st.text(max_size=6), OBJECTS))
CALLS = st.lists(st.builds(lambda call_id, args: {**call(call_id), "args": args}, IDS, OBJECTS), max_size=3)
ANSWERS = st.builds(
    lambda content, calls, broken, more: ai(
        content,
        tool_calls=calls,
        invalid_tool_calls=[{**bad(each["id"]), "args": None} for each in broken],
        additional_kwargs={"signature": "kept", "more": more},
    ),
    st.text() | st.lists(BLOCKS, max_size=3),
    CALLS,
    CALLS,
    OBJECTS,
)


@given(ANSWERS)
def test_any_answer_is_stored_with_nothing_changed_but_the_missing_ids(message):
    before = deepcopy(message)
    entry = stored(message)
    assert message == before
    ids = []
    for name in ("tool_calls", "invalid_tool_calls"):
        for found, given_call in zip(entry.body["data"][name], message["data"][name], strict=True):
            ids.append(found["id"])
            given_call["id"] = given_call["id"] or found["id"]
    assert dump_json(entry.body) == dump_json(message)
    assert all(ids)
    assert sorted(each.id for each in CODEC.calls(entry)) == sorted(ids)


@given(JSON, st.booleans())
def test_any_result_answers_its_call(content, error):
    [entry] = kept(CODEC.result(CALL, content, error=error))
    assert CODEC.answers(entry) == ["c1"]
    assert isinstance(entry.body["data"]["content"], str | list)
