"""What the codec of Responses keeps of an item, reads in it and sends back. Without the SDK."""

import copy

import pytest

from threadkeep.errors import EmptyReply, InvalidMessage
from threadkeep.model import Entry
from threadkeep.session.codecs import codec_for
from threadkeep.session.codecs.base import ToolCall, ToolDefinition, Usage

CODEC = codec_for("openai-responses")
REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA+/=="}


def stored(*messages):
    """The entries of messages, after a way through JSON."""
    return [
        Entry.from_record(Entry(f"m{at}.{place}", part.kind, part.body, CODEC.name, part.meta).to_record())
        for at, message in enumerate(messages)
        for place, part in enumerate(CODEC.encode(message, f"m{at}"))
    ]


def response(*output, status="completed", reason=None, usage=None):
    return {
        "id": "resp_1",
        "object": "response",
        "model": "gpt-x",
        "status": status,
        "incomplete_details": {"reason": reason} if reason else None,
        "output": list(output),
        "usage": usage,
    }


def said(text, kind="output_text"):
    part = {"type": kind, "text": text, "annotations": []} if kind == "output_text" else {"type": kind, "refusal": text}
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": [part]}


def call(call_id, arguments="{}", **more):
    return {
        "type": "function_call",
        "id": f"fc_{call_id}",
        "call_id": call_id,
        "name": "f",
        "arguments": arguments,
        **more,
    }


def output(call_id, text="done"):
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def user(text):
    return {"role": "user", "content": text}


def types(items):
    return [item.get("type") or item["role"] for item in items]


@pytest.mark.parametrize(
    ("item", "kind"),
    [
        ({"role": "user", "content": "x"}, "user"),
        ({"role": "assistant", "content": "x"}, "assistant"),
        ({"type": "message", "role": "system", "content": []}, "system"),
        ({"type": "message", "role": "developer", "content": []}, "system"),
        ({"type": None, "role": "user", "content": "x"}, "user"),
        (said("x"), "assistant"),
        (REASONING, "assistant"),
        (call("c1"), "assistant"),
        ({"type": "custom_tool_call", "call_id": "c1", "name": "sql", "input": "x"}, "assistant"),
        ({"type": "web_search_call", "id": "ws_1", "status": "completed"}, "assistant"),
        ({"type": "item_reference", "id": "msg_1"}, "assistant"),
        ({"type": "additional_tools", "role": "developer", "tools": []}, "assistant"),
        ({"type": "hologram", "beam": None}, "assistant"),
        (output("c1"), "tool"),
        ({"type": "custom_tool_call_output", "call_id": "c1", "output": "x"}, "tool"),
        ({"type": "computer_call_output", "call_id": "c1", "output": {}}, "tool"),
        ({"type": "shell_call_output", "call_id": "c1", "output": []}, "tool"),
        ({"type": "mcp_approval_response", "approval_request_id": "a1", "approve": True}, "user"),
    ],
)
def test_type_and_role_say_who_speaks_and_every_item_comes_back_as_it_was(item, kind):
    [entry] = stored(item)
    assert (entry.kind, entry.body, entry.meta) == (kind, item, {})


def test_an_answer_becomes_an_entry_an_item_with_its_facts_on_the_last():
    usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7}
    entries = stored(response(REASONING, call("c1"), said("hi"), usage=usage))
    assert [entry.body for entry in entries] == [REASONING, call("c1"), said("hi")]
    assert [entry.kind for entry in entries] == ["assistant"] * 3
    assert [entry.meta for entry in entries] == [
        {},
        {},
        {"model": "gpt-x", "stop": "completed", "usage": usage, "native_id": "resp_1"},
    ]


def test_what_helpers_add_is_not_kept_of_an_answer_and_never_sent():
    parsed_call = call("c1", parsed_arguments={"a": 1})
    parsed_text = said("{}")
    parsed_text["content"][0]["parsed"] = {"a": 1}
    assert [entry.body for entry in stored(response(parsed_call, parsed_text))] == [call("c1"), said("{}")]
    as_given = stored(parsed_call, parsed_text)
    assert [entry.body for entry in as_given] == [parsed_call, parsed_text]
    assert CODEC.request(as_given)["input"] == [call("c1"), said("{}")]


def test_a_reply_is_read_from_all_entries_of_an_answer():
    usage = {
        "input_tokens": 20,
        "output_tokens": 9,
        "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 6},
    }
    custom = {"type": "custom_tool_call", "call_id": "c2", "name": "sql", "input": "SELECT 1"}
    reply = CODEC.reply(
        stored(response(REASONING, said("a"), call("c1", '{"x":null}'), said("b"), custom, usage=usage))
    )
    assert reply.calls == [ToolCall("c1", "f", {"x": None}), ToolCall("c2", "sql", "SELECT 1")]
    assert reply.usage == Usage(input=20, output=9, cache_read=8, cache_write=4, reasoning=6, requests=1)
    assert (reply.text, reply.stop, reply.again) == ("ab", "completed", False)


def test_text_of_a_plain_assistant_message_is_read_too():
    reply = CODEC.reply(stored({"role": "assistant", "content": "hi"}))
    assert (reply.text, reply.stop, reply.usage) == ("hi", "", Usage(requests=1))


def test_a_refusal_is_kept_and_told():
    entries = stored(response(said("I will not.", "refusal")))
    reply = CODEC.reply(entries)
    assert (reply.stop, reply.text) == ("refusal", "")
    assert CODEC.request(entries)["input"] == [said("I will not.", "refusal")]


def test_what_the_providers_own_tools_put_out_is_part_of_the_answer():
    searched = {"type": "tool_search_output", "call_id": "ts_1", "execution": "server", "tools": []}
    assert [entry.kind for entry in stored(response(searched, said("hi")))] == ["assistant", "assistant"]
    assert [entry.kind for entry in stored(searched)] == ["tool"]


def test_a_call_that_the_provider_answered_itself_is_none_of_the_apps():
    reply = CODEC.reply(stored(response(call("c1"), output("c1"), call("c2"))))
    assert [found.id for found in reply.calls] == ["c2"]


def test_the_last_call_of_an_answer_cut_short_is_not_run():
    cut = response(call("c1"), call("c2", '{"path": "/a"}'), status="incomplete", reason="max_output_tokens")
    first, last = CODEC.reply(stored(cut)).calls
    assert first.problem == ""
    assert "cut short" in last.problem
    assert CODEC.reply(stored(cut)).stop == "max_output_tokens"


@pytest.mark.parametrize("kind", ["function_call", "custom_tool_call"])
def test_a_call_that_says_itself_that_it_is_incomplete_is_not_run(kind):
    [entry] = stored({"type": kind, "call_id": "c1", "name": "f", "input": "DROP", "status": "incomplete"})
    [found] = CODEC.calls(entry)
    assert "cut short" in found.problem


def test_arguments_stay_the_text_that_they_were_and_must_be_an_object():
    entries = stored(response(call("c1", '{ "n" : 1e1 }'), call("c2", "[1]"), call("c3", "{")))
    good, listed, broken = CODEC.reply(entries).calls
    assert (good.args, good.problem) == ({"n": 10.0}, "")
    assert listed.problem == "its arguments are no JSON object"
    assert broken.problem.startswith("its arguments are no JSON:")
    assert CODEC.request(entries)["input"][0]["arguments"] == '{ "n" : 1e1 }'


def test_a_call_without_an_id_gets_the_same_one_on_every_try():
    bare = {"type": "function_call", "name": "f", "arguments": "{}"}
    first, again = stored(response(bare, bare)), stored(response(bare, bare))
    ids = [found.id for found in CODEC.reply(first).calls]
    assert len(set(ids)) == 2
    assert [entry.body["call_id"] for entry in again] == ids


@pytest.mark.parametrize(
    ("answer", "stop"),
    [
        (response(), "completed"),
        (response(status="incomplete", reason="content_filter"), "content_filter"),
        (response(status="failed"), "failed"),
        (response(status="queued"), "queued"),
    ],
)
def test_an_answer_without_items_is_refused(answer, stop):
    with pytest.raises(EmptyReply) as refused:
        CODEC.encode(answer, "m")
    assert refused.value.stop == stop


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("hello", "str"),
        ([user("hello")], "list"),
        ({"content": "hello"}, "role"),
        ({"role": "tool", "tool_call_id": "c1", "content": "x"}, "tool"),
        ({"role": ["user"], "content": "hello"}, "role"),
        ({"type": 7}, "int"),
        ({"type": "response.completed", "response": {}}, "stream"),
        ({"role": "user", "content": object()}, "object"),
    ],
)
def test_what_the_provider_would_refuse_is_refused_by_name(message, named):
    with pytest.raises(InvalidMessage, match=named):
        CODEC.encode(message, "m")


def test_the_last_system_prompt_travels_apart_if_it_is_text():
    entries = stored(
        {"role": "developer", "content": "Old."}, user("1"), {"role": "system", "content": "New."}, user("2")
    )
    assert CODEC.request(entries) == {"instructions": "New.", "input": [user("1"), user("2")]}


def test_a_system_prompt_of_parts_is_the_first_item():
    parts = [{"type": "input_text", "text": "New."}]
    entries = stored({"role": "system", "content": "Old."}, user("1"), {"role": "system", "content": parts})
    assert CODEC.request(entries) == {"input": [{"role": "developer", "content": parts}, user("1")]}


def test_tools_are_told_with_their_schema_and_left_out_where_there_are_none():
    schema = {"type": "object", "properties": {}}
    tools = [ToolDefinition("f", "Does.", schema), ToolDefinition("g", "Does too.", schema, strict=False)]
    assert CODEC.request(stored(user("hi"))) == {"input": [user("hi")]}
    assert CODEC.request([], tools=tools)["tools"] == [
        {"type": "function", "name": "f", "description": "Does.", "parameters": schema},
        {"type": "function", "name": "g", "description": "Does too.", "parameters": schema, "strict": False},
    ]


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        ("sunny", "sunny"),
        (None, ""),
        ({"sky": None}, '{"sky":null}'),
        ([1, 2], "[1,2]"),
        ([{"type": "text", "text": "a"}], '[{"type":"text","text":"a"}]'),
        (
            [{"type": "input_image", "image_url": "https://x/y.png"}],
            [{"type": "input_image", "image_url": "https://x/y.png"}],
        ),
    ],
)
def test_a_result_is_text_or_input_parts(content, sent):
    part = CODEC.result(ToolCall("c1", "f", {}), content)
    assert (part.kind, part.body) == ("tool", {"type": "function_call_output", "call_id": "c1", "output": sent})
    assert CODEC.answers(Entry("x", part.kind, part.body, CODEC.name)) == ["c1"]


def test_a_custom_tool_is_answered_in_its_own_way():
    part = CODEC.result(ToolCall("c1", "sql", "SELECT 1"), [[1]])
    assert part.body == {"type": "custom_tool_call_output", "call_id": "c1", "output": "[[1]]"}


def test_reasoning_that_led_to_nothing_is_not_sent():
    other = {**REASONING, "id": "rs_2"}
    answered = response(REASONING, other, call("c1"))
    cut_short = response(REASONING, status="incomplete", reason="max_output_tokens")
    assert types(CODEC.request(stored(user("1"), answered, output("c1")))["input"]) == [
        "user",
        "reasoning",
        "reasoning",
        "function_call",
        "function_call_output",
    ]
    assert types(CODEC.request(stored(user("1"), cut_short))["input"]) == ["user"]
    assert types(CODEC.request(stored(user("1"), cut_short, user("2")))["input"]) == ["user", "user"]
    assert types(CODEC.request(stored(user("1"), cut_short, {"role": "system", "content": "x"}))["input"]) == ["user"]


def test_reasoning_keeps_its_follower_across_a_system_prompt_that_was_put_in_between():
    entries = stored(REASONING, {"role": "system", "content": "x"}, said("hi"))
    assert types(CODEC.request(entries)["input"]) == ["reasoning", "message"]


def test_a_cut_takes_reasoning_along_with_its_follower():
    other = {**REASONING, "id": "rs_2"}
    entries = stored(user("1"), response(REASONING, other, call("c1")), output("c1"), response(REASONING))
    assert [CODEC.cut(entries, at) for at in range(7)] == [0, 1, 1, 1, 4, 5, 6]


def test_only_what_the_model_says_calls_and_only_results_answer():
    asked, answered = stored(call("c1"), output("c1"))
    assert CODEC.calls(Entry("u", "user", asked.body, CODEC.name)) == CODEC.calls(answered) == []
    assert CODEC.answers(asked) == []


@pytest.mark.parametrize("item", [{"type": "shell_call", "call_id": "c1"}, {"type": "computer_call", "call_id": "c1"}])
def test_calls_of_openais_own_tools_are_left_to_the_app(item):
    assert CODEC.calls(stored(item)[0]) == []


@pytest.mark.parametrize("kind", ["assistant", "tool"])
def test_an_imported_body_that_is_no_item_is_read_as_silence(kind):
    alien = Entry("a", kind, "just text", CODEC.name)
    assert (CODEC.calls(alien), CODEC.answers(alien), CODEC.reply([alien]).text) == ([], [], "")


def test_requests_and_native_items_share_nothing_with_what_is_stored():
    items = [
        {"role": "system", "content": [{"type": "input_text", "text": "Be brief."}]},
        user([{"type": "input_text"}]),
    ]
    entries = stored(*items, response(said("hi")))
    before, given = copy.deepcopy(entries), copy.deepcopy(items)
    schema = {"type": "object", "properties": {"x": {}}}
    request = CODEC.request(entries, tools=[ToolDefinition("t", "", schema)])
    parts = [part.body for item in items for part in CODEC.encode(item, "m")]
    for item in [*request["input"], *CODEC.native(entries), *parts]:
        item["content"][0]["changed"] = True
    request["tools"][0]["parameters"]["properties"]["x"]["type"] = "string"
    assert (entries, items) == (before, given)
    assert schema == {"type": "object", "properties": {"x": {}}}


def test_a_hook_sees_each_item_but_no_instructions():
    seen = []

    def hook(item, index, items):
        seen.append((index, item, len(items)))
        return {**item, "marked": True}

    request = CODEC.request(stored({"role": "system", "content": "x"}, user("1"), user("2")), prepared=hook)
    assert seen == [(0, user("1"), 2), (1, user("2"), 2)]
    assert request == {"instructions": "x", "input": [{**user("1"), "marked": True}, {**user("2"), "marked": True}]}


def test_an_option_that_is_not_known_is_an_error():
    with pytest.raises(TypeError, match="send_extras"):
        CODEC.request([], send_extras=True)
