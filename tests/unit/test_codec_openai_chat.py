"""What the codec of Chat Completions keeps of a message, reads in it and sends back. Without the SDK."""

import copy
import json

import pytest

from threadkeep.errors import EmptyReply, InvalidMessage
from threadkeep.model import Entry
from threadkeep.session.codecs import codec_for
from threadkeep.session.codecs.base import ToolCall, ToolDefinition, Usage

CODEC = codec_for("openai-chat")
WEATHER = ToolDefinition("weather", "Tell the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})


def stored(*messages):
    """The entries of messages, after a way through JSON."""
    return [
        Entry.from_record(Entry(f"m{at}", part.kind, part.body, CODEC.name, part.meta).to_record())
        for at, message in enumerate(messages)
        for part in CODEC.encode(message, f"m{at}")
    ]


def made(part, entry_id="x"):
    return Entry(entry_id, part.kind, part.body, CODEC.name, part.meta)


def completion(message, stop="stop", usage=None):
    choice = {"index": 0, "finish_reason": stop, "message": {"role": "assistant", **message}}
    return {"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-x", "choices": [choice], "usage": usage}


def called(*calls, stop="tool_calls"):
    return completion({"content": None, "tool_calls": list(calls)}, stop)


def call(call_id, arguments, name="weather"):
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def user(text):
    return {"role": "user", "content": text}


@pytest.mark.parametrize(
    ("role", "kind"),
    [
        ("system", "system"),
        ("developer", "system"),
        ("user", "user"),
        ("assistant", "assistant"),
        ("tool", "tool"),
        ("function", "tool"),
    ],
)
def test_the_role_says_who_speaks(role, kind):
    [entry] = stored({"role": role, "content": "x"})
    assert entry.kind == kind


def test_an_answer_is_kept_as_its_message_with_its_facts_beside_it():
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    [entry] = stored(completion({"content": "hi", "refusal": None}, usage=usage))
    assert entry.body == {"role": "assistant", "content": "hi", "refusal": None}
    assert entry.meta == {"model": "gpt-x", "stop": "stop", "usage": usage, "native_id": "chatcmpl-1"}


def test_what_helpers_add_is_not_kept():
    helped = {
        "content": None,
        "parsed": {"city": "Oslo"},
        "annotations": None,
        "audio": None,
        "function_call": None,
        "tool_calls": [{"index": 0, **call("c1", "{}")}],
    }
    helped["tool_calls"][0]["function"]["parsed_arguments"] = {}
    [entry] = stored(completion(helped))
    assert entry.body == {"role": "assistant", "content": None, "tool_calls": [call("c1", "{}")]}


def test_an_empty_list_of_calls_is_not_sent_back():
    [entry] = stored(completion({"content": "hi", "tool_calls": []}))
    assert entry.body == {"role": "assistant", "content": "hi"}


def test_arguments_stay_the_text_that_they_were():
    spaced = '{ "city" : "Oslo",  "days": 1e1, "exact": 10000000000000000000001 }'
    entries = stored(called(call("c1", spaced)))
    [found] = CODEC.calls(entries[0])
    assert found == ToolCall("c1", "weather", {"city": "Oslo", "days": 10.0, "exact": 10**22 + 1})
    assert CODEC.request(entries)["messages"][0]["tool_calls"][0]["function"]["arguments"] == spaced


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_blank_arguments_are_no_arguments(blank):
    [found] = CODEC.calls(stored(called(call("c1", blank)))[0])
    assert (found.args, found.problem) == ({}, "")


def test_null_arguments_reach_the_tool():
    [found] = CODEC.calls(stored(called(call("c1", '{"city":null}')))[0])
    assert (found.args, found.problem) == ({"city": None}, "")


@pytest.mark.parametrize(
    "arguments", ['{"city": "Os', '["Oslo"]', "null", '{"days": NaN}', "[" * 100_000, {"city": "Oslo"}]
)
def test_arguments_that_are_no_json_object_are_a_problem(arguments):
    [found] = CODEC.calls(stored(called(call("c1", arguments)))[0])
    assert found.args == {}
    assert found.problem.startswith("its arguments are no JSON")


@pytest.mark.parametrize("stop", ["length", "content_filter"])
def test_the_last_call_of_an_answer_cut_short_is_not_run(stop):
    first, last = CODEC.calls(stored(called(call("c1", "{}"), call("c2", '{"path": "/a"}'), stop=stop))[0])
    assert first.problem == ""
    assert "cut short" in last.problem


def test_a_custom_tool_is_called_with_free_text():
    custom = {"id": "c1", "type": "custom", "custom": {"name": "sql", "input": "SELECT 1"}}
    [found] = CODEC.calls(stored(called(custom))[0])
    assert found == ToolCall("c1", "sql", "SELECT 1")


def test_a_call_of_an_unknown_type_is_a_problem_and_goes_back_as_it_came():
    strange = {"id": "c1", "type": "telepathy", "telepathy": {"name": "ask", "thought": [1, None]}}
    entries = stored(called(strange))
    [found] = CODEC.calls(entries[0])
    assert (found.id, found.name) == ("c1", "ask")
    assert "telepathy" in found.problem
    assert CODEC.request(entries)["messages"][0]["tool_calls"] == [strange]


@pytest.mark.parametrize("kind", ["function", "custom"])
@pytest.mark.parametrize("asked", ["weather", ["weather"], 7, None])
def test_a_call_whose_tool_is_no_object_is_a_problem(kind, asked):
    [found] = CODEC.calls(stored(called({"id": "c1", "type": kind, kind: asked}))[0])
    assert found == ToolCall("c1", "", {}, f"its {kind} is no object")


@pytest.mark.parametrize("kind", [["function"], {"function": {}}, 7])
def test_a_call_whose_type_is_no_text_is_a_problem(kind):
    [found] = CODEC.calls(stored(called({"id": "c1", "type": kind, "function": {"name": "weather"}}))[0])
    assert (found.id, found.name) == ("c1", "")
    assert "not known here" in found.problem


@pytest.mark.parametrize("absent", [{}, {"id": ""}, {"id": None}])
def test_a_call_without_an_id_gets_the_same_one_on_every_try(absent):
    bare = {"type": "function", "function": {"name": "weather", "arguments": "{}"}, **absent}
    [first], [again] = stored(called(bare, bare)), stored(called(bare, bare))
    assert first.body == again.body
    one, other = CODEC.calls(first)
    assert one.id != other.id
    assert len(one.id) <= 40
    assert [item["id"] for item in first.body["tool_calls"]] == [one.id, other.id]


def test_a_refusal_is_kept_and_told():
    entries = stored(completion({"content": None, "refusal": "I will not."}))
    reply = CODEC.reply(entries)
    assert (reply.stop, reply.text, reply.calls) == ("refusal", "", [])
    assert CODEC.request(entries)["messages"] == [{"role": "assistant", "content": None, "refusal": "I will not."}]


def test_a_reply_counts_tokens_and_joins_text():
    usage = {
        "prompt_tokens": 20,
        "completion_tokens": 9,
        "prompt_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4},
        "completion_tokens_details": {"reasoning_tokens": 6},
    }
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "no"}, {"type": "text", "text": "b"}]
    reply = CODEC.reply(stored(completion({"content": parts}, usage=usage)))
    assert reply.usage == Usage(input=20, output=9, cache_read=8, cache_write=4, reasoning=6, requests=1)
    assert (reply.text, reply.stop, reply.again) == ("ab", "stop", False)


def test_an_answer_without_a_count_counts_as_one_request():
    assert CODEC.reply(stored(completion({"content": "hi"}))).usage == Usage(requests=1)


@pytest.mark.parametrize(
    ("answer", "stop"),
    [
        ({"choices": []}, ""),
        (completion({"content": None}, "content_filter"), "content_filter"),
        (completion({"content": ""}, "length"), "length"),
        (completion({"content": "", "reasoning_content": "hm, hm"}, "length"), "length"),
    ],
)
def test_an_answer_without_a_message_is_refused(answer, stop):
    with pytest.raises(EmptyReply) as refused:
        CODEC.encode(answer, "m")
    assert refused.value.stop == stop


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("hello", "str"),
        ([user("hello")], "list"),
        ({"content": "hello"}, "role"),
        ({"role": "asistant", "content": "hello"}, "asistant"),
        ({"role": ["user"], "content": "hello"}, "role"),
        ({"role": "assistant", "content": None, "tool_calls": {"id": "c1"}}, "tool_calls"),
        ({"role": "assistant", "content": None, "tool_calls": ["c1"]}, "tool_calls"),
        ({"choices": [{"delta": {"content": "hel"}}]}, "stream"),
        ({"role": "user", "content": object()}, "object"),
    ],
)
def test_what_the_provider_would_refuse_is_refused_by_name(message, named):
    with pytest.raises(InvalidMessage, match=named):
        CODEC.encode(message, "m")


def test_the_last_system_prompt_stands_first_and_alone():
    entries = stored(
        {"role": "developer", "content": "Old."}, user("1"), {"role": "system", "content": "New."}, user("2")
    )
    assert CODEC.request(entries)["messages"] == [{"role": "system", "content": "New."}, user("1"), user("2")]


def test_extras_of_a_vendor_go_back_on_demand_only():
    said = {"content": "hi", "reasoning_content": "hm", "annotations": [{"type": "url_citation"}], "refusal": None}
    entries = stored(completion(said))
    assert entries[0].body["annotations"] == said["annotations"]
    assert CODEC.request(entries)["messages"] == [{"role": "assistant", "content": "hi"}]
    assert CODEC.request(entries, send_extras=True)["messages"] == [
        {"role": "assistant", "content": "hi", "reasoning_content": "hm"}
    ]


def test_audio_is_kept_whole_and_sent_back_by_its_id():
    audio = {"id": "audio_1", "data": "UklGRg==", "expires_at": 1, "transcript": "hi"}
    entries = stored(completion({"content": None, "audio": audio}))
    assert entries[0].body["audio"] == audio
    assert CODEC.request(entries)["messages"] == [{"role": "assistant", "content": None, "audio": {"id": "audio_1"}}]


def test_tools_are_told_with_their_schema_and_left_out_where_there_are_none():
    strict = ToolDefinition("clock", "Tell the time.", {"type": "object", "properties": {}}, strict=True)
    assert "tools" not in CODEC.request(stored(user("hi")))
    assert CODEC.request([], tools=[WEATHER, strict])["tools"] == [
        {
            "type": "function",
            "function": {"name": "weather", "description": "Tell the weather.", "parameters": WEATHER.schema},
        },
        {
            "type": "function",
            "function": {
                "name": "clock",
                "description": "Tell the time.",
                "parameters": {"type": "object", "properties": {}},
                "strict": True,
            },
        },
    ]


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        ("sunny", "sunny"),
        (None, ""),
        ({"sky": None, "t": 1.5}, '{"sky":null,"t":1.5}'),
        (7, "7"),
        ([], "[]"),
        ([1, 2], "[1,2]"),
        ([{"type": "text", "text": "a"}, {"price": 3}], '[{"type":"text","text":"a"},{"price":3}]'),
        ([{"type": "text", "text": "a"}], [{"type": "text", "text": "a"}]),
        (b"\xff\xfe", "//4="),
    ],
)
def test_a_result_is_text_or_content_parts(content, sent):
    part = CODEC.result(ToolCall("c1", "weather", {}), content)
    assert (part.kind, part.body) == ("tool", {"role": "tool", "tool_call_id": "c1", "content": sent})
    assert CODEC.answers(made(part)) == ["c1"]


def test_a_result_that_is_no_json_is_refused():
    with pytest.raises(InvalidMessage, match="nan"):
        CODEC.result(ToolCall("c1", "weather", {}), {"t": float("nan")})


def test_only_what_the_model_says_calls_and_only_results_answer():
    asked, answered = stored(called(call("c1", "{}")), {"role": "tool", "tool_call_id": "c1", "content": "x"})
    said_by_user = Entry("u", "user", asked.body, CODEC.name)
    assert CODEC.calls(said_by_user) == CODEC.calls(answered) == []
    assert CODEC.answers(asked) == CODEC.answers(said_by_user) == []


@pytest.mark.parametrize("kind", ["assistant", "tool"])
def test_an_imported_body_that_is_no_message_is_read_as_silence(kind):
    alien = Entry("a", kind, "just text", CODEC.name)
    assert (CODEC.calls(alien), CODEC.answers(alien), CODEC.reply([alien]).text) == ([], [], "")


def test_an_imported_call_without_an_id_can_be_told_from_another():
    bare = Entry("a", "assistant", {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}] * 2}, CODEC.name)
    assert len({found.id for found in CODEC.calls(bare)}) == 2


def test_requests_and_native_messages_share_nothing_with_what_is_stored():
    body = {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    schema = {"type": "object", "properties": {"x": {}}}
    entries = stored(
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}, body, called(call("c", "{}"))
    )
    before = copy.deepcopy(entries)
    request = CODEC.request(entries, tools=[ToolDefinition("t", "", schema)], send_extras=True)
    for value in (
        request,
        {"messages": CODEC.native(entries)},
        {"messages": [part.body for part in CODEC.encode(body, "m")]},
    ):
        for message in value["messages"]:
            for inner in message.get("content") or []:
                inner["cache"] = True
            for inner in message.get("tool_calls", []):
                inner["function"]["name"] = "changed"
    request["tools"][0]["function"]["parameters"]["properties"]["x"]["type"] = "string"
    assert entries == before
    assert body == {"role": "user", "content": [{"type": "text", "text": "hi"}]}
    assert schema == {"type": "object", "properties": {"x": {}}}


def test_a_hook_sees_each_message_last_of_all():
    entries = stored(user("1"), {"role": "system", "content": "Be brief."}, completion({"content": "2", "vendor": 1}))
    seen = []

    def hook(message, index, messages):
        seen.append((index, json.loads(json.dumps(message)), len(messages)))
        return {**message, "marked": True}

    request = CODEC.request(entries, prepared=hook)
    assert seen == [
        (0, {"role": "system", "content": "Be brief."}, 3),
        (1, user("1"), 3),
        (2, {"role": "assistant", "content": "2"}, 3),
    ]
    assert all(message["marked"] for message in request["messages"])


def test_an_option_that_is_not_known_is_an_error():
    with pytest.raises(TypeError, match="cache"):
        CODEC.request([], cache="5m")


def test_a_cut_may_stand_anywhere():
    entries = stored(user("1"), completion({"content": "2"}))
    assert [CODEC.cut(entries, at) for at in range(3)] == [0, 1, 2]
