"""What the codec of Anthropic stores, what it reads from that, and the requests it makes of it."""

import json
from collections.abc import Iterator
from copy import deepcopy
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from threadkeep.errors import EmptyReply, InvalidMessage
from threadkeep.model import Entry
from threadkeep.session.codecs import codec_for
from threadkeep.session.codecs.anthropic import AnthropicCodec
from threadkeep.session.codecs.anthropic_cache import with_cache
from threadkeep.session.codecs.base import Part, ToolCall, ToolDefinition, Usage
from threadkeep.strict_json import dump_json

CODEC = AnthropicCodec()
CALL = ToolCall("toolu_1", "look", {})
THINKING = {"type": "thinking", "thinking": "hm", "signature": "s"}
HIDDEN_THINKING = {"type": "redacted_thinking", "data": "x"}
FIVE_MINUTES = {"type": "ephemeral", "ttl": "5m"}
HOUR = {"type": "ephemeral", "ttl": "1h"}


def stored(*messages: Any) -> list[Entry]:
    """Entries of messages (or of parts), through the bytes that a store keeps."""
    parts = [part for each in messages for part in ([each] if isinstance(each, Part) else CODEC.encode(each, "m"))]
    entries = [Entry(f"m{at}", part.kind, part.body, CODEC.name, part.meta) for at, part in enumerate(parts)]
    return [Entry.from_record(entry.to_record()) for entry in entries]


def messages_of(*messages: Any, **options: Any) -> list[Any]:
    found: list[Any] = CODEC.request(stored(*messages), cache=False, **options)["messages"]
    return found


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


def text(said: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": said, **more}


def tool_use(call_id: str, name: str = "look", **args: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": args}


def tool_result(call_id: str, content: Any = "seen") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content}


def search(call_id: str) -> dict[str, Any]:
    return {"type": "server_tool_use", "id": call_id, "name": "web_search", "input": {"query": "x"}}


def found(call_id: str) -> dict[str, Any]:
    return {"type": "web_search_tool_result", "tool_use_id": call_id, "content": []}


def answer(*content: Any, stop: str = "end_turn", **more: Any) -> dict[str, Any]:
    usage = {"input_tokens": 3, "output_tokens": 5}
    facts = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-x", "usage": usage}
    return {**facts, "content": list(content), "stop_reason": stop, "stop_sequence": None, **more}


# --- storing --------------------------------------------------------------------------------------------------------


def test_the_codec_is_found_by_its_name():
    assert isinstance(codec_for("anthropic"), AnthropicCodec)
    assert codec_for("anthropic").name == "anthropic"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (user("hi"), "user"),
        (user([text("hi")]), "user"),
        (user([tool_result("a"), tool_result("b")]), "tool"),
        (user([tool_result("a"), text("and this?")]), "user"),
        (assistant(text("hello")), "assistant"),
        ({"role": "assistant", "content": "hello"}, "assistant"),
        ({"role": "system", "content": "Be brief."}, "system"),
    ],
)
def test_messages_are_stored_as_the_api_takes_them(message, kind):
    assert CODEC.encode(message, "m") == [Part(kind, message)]


def test_text_stays_text_and_blocks_stay_blocks():
    assert CODEC.user("hi") == Part("user", user("hi"))
    assert CODEC.user([text("hi")]) == Part("user", user([text("hi")]))
    assert CODEC.system("Be brief.") == Part("system", {"role": "system", "content": "Be brief."})
    assert CODEC.system([text("Be brief.")]).body["content"] == [text("Be brief.")]


def test_what_is_stored_shares_nothing_with_what_was_handed_in():
    message = user([text("hi", extra={"deep": [1]})])
    part = CODEC.encode(message, "m")[0]
    message["content"][0]["extra"]["deep"].append(2)
    assert part.body["content"][0]["extra"] == {"deep": [1]}


def test_bytes_become_base64():
    source = {"type": "base64", "media_type": "image/png", "data": b"\xfb\xff\x00"}
    part = CODEC.user([{"type": "image", "source": source}])
    assert part.body["content"][0]["source"]["data"] == "+/8A"


def test_an_answer_is_its_blocks_and_the_rest_is_known_besides():
    details = {"type": "refusal", "category": None, "explanation": None}
    message = answer(text("hello"), stop="refusal", stop_details=details, container={"id": "c1"})
    (part,) = CODEC.encode(message, "m")
    assert part.body == assistant(text("hello"))
    assert part.meta == {
        "model": "claude-x",
        "stop": "refusal",
        "stop_details": details,
        "usage": {"input_tokens": 3, "output_tokens": 5},
        "container": {"id": "c1"},
        "native_id": "msg_1",
    }


def test_an_answer_that_is_an_object_is_known_by_its_shape():
    message = SimpleNamespace(**answer(text("hello"), tool_use("a", path=None)))
    assert CODEC.encode(message, "m") == CODEC.encode(answer(text("hello"), tool_use("a", path=None)), "m")


def test_facts_that_an_answer_lacks_are_left_out():
    message = {"type": "message", "role": "assistant", "content": [text("hello")], "model": "claude-x"}
    assert CODEC.encode(message, "m")[0].meta == {"model": "claude-x"}


@pytest.mark.parametrize("stop", ["end_turn", "refusal"])
def test_an_answer_without_content_is_an_empty_reply(stop):
    with pytest.raises(EmptyReply) as caught:
        CODEC.encode(answer(stop=stop), "m")
    assert caught.value.stop == stop


@pytest.mark.parametrize("content", ["", []])
def test_an_assistant_that_says_nothing_is_an_empty_reply(content):
    with pytest.raises(EmptyReply):
        CODEC.encode({"role": "assistant", "content": content}, "m")


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("hi", "message: str"),
        (["hi"], "message: list"),
        (object(), "message: object"),
        ({"content": "hi"}, "message: role"),
        ({"role": "tool", "content": "hi"}, "message: role: 'tool'"),
        ({"role": ["user"], "content": "hi"}, "message: role"),
        ({"role": "user"}, "user message: content: NoneType"),
        (user(7), "user message: content: int"),
        (user(["hi"]), "user message: content: list"),
        (user([{"text": "hi"}]), "user message: content: list"),
        (user(""), "user message: content: blank"),
        (user(" \n"), "user message: content: blank"),
        (user([]), "user message: content: blank"),
        (user([text("")]), "user message: content: blank"),
        (user([{"type": "text", "text": object()}]), "message: object"),
    ],
)
def test_what_the_api_would_refuse_is_refused_by_name(message, named):
    with pytest.raises(InvalidMessage) as caught:
        CODEC.encode(message, "m")
    assert str(caught.value).startswith(named)
    assert "Nothing was written" in str(caught.value)


# --- tool results ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sent"),
    [
        ("as it is", "as it is"),
        ("", ""),
        ([text("a"), {"type": "brand_new"}], [text("a"), {"type": "brand_new"}]),
        ([text("a"), "b"], '[{"type":"text","text":"a"},"b"]'),
        ([{"type": 7}], '[{"type":7}]'),
        ([], "[]"),
        ((1, 2), "[1,2]"),
        ({"type": "text", "text": "a"}, '{"type":"text","text":"a"}'),
        (None, "null"),
        (True, "true"),
        (12345678901234567890, "12345678901234567890"),
        (1.0, "1.0"),
    ],
)
def test_a_tools_result_is_text_or_blocks(content, sent):
    assert CODEC.result(CALL, content) == Part("tool", user([tool_result("toolu_1", sent)]))


def test_only_a_failed_tools_result_is_marked_as_an_error():
    body = CODEC.result(CALL, "boom", error=True).body
    assert body == user([{**tool_result("toolu_1", "boom"), "is_error": True}])
    assert "is_error" not in CODEC.result(CALL, "fine").body["content"][0]


def test_bytes_in_a_tools_result_become_base64():
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": b"\x00\x01"}}
    assert CODEC.result(CALL, [image]).body["content"][0]["content"][0]["source"]["data"] == "AAE="


@pytest.mark.parametrize("content", [float("nan"), {"a": float("inf")}, object(), {1, 2}, {1: "one"}])
def test_a_tools_result_that_is_no_json_is_refused(content):
    with pytest.raises(InvalidMessage):
        CODEC.result(CALL, content)


def test_answers_are_the_calls_that_results_name():
    results = user([tool_result("a"), tool_result("b"), text("and?")])
    search = assistant({"type": "web_search_tool_result", "tool_use_id": "srv", "content": []})
    found = [CODEC.answers(entry) for entry in stored(results, search, user("hi"), user([text("x")]))]
    assert found == [["a", "b"], [], [], []]


# --- replies --------------------------------------------------------------------------------------------------------


def test_calls_are_the_tools_that_the_app_must_run():
    server = {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {"query": "x"}}
    (entry,) = stored(
        answer(text("so"), tool_use("a", path=None), server, tool_use("b", "write", n=1), stop="tool_use")
    )
    assert CODEC.calls(entry) == [ToolCall("a", "look", {"path": None}), ToolCall("b", "write", {"n": 1})]


@pytest.mark.parametrize("given", [{}, {"input": None}, {"input": {}}])
def test_a_call_without_input_has_no_arguments(given):
    (entry,) = stored(assistant({"type": "tool_use", "id": "a", "name": "look", **given}))
    assert CODEC.calls(entry) == [ToolCall("a", "look", {})]


def test_a_call_without_an_id_gets_one_that_a_repeat_agrees_with():
    (entry,) = stored(assistant(tool_use("a"), tool_use("")))
    assert [call.id for call in CODEC.calls(entry)] == ["a", "m0-call-1"]


def test_what_a_user_says_calls_no_tool():
    (entry,) = stored(user([tool_use("a"), text("this is what you said")]))
    assert CODEC.calls(entry) == []


@pytest.mark.parametrize("stop", ["max_tokens", "model_context_window_exceeded", "refusal"])
def test_a_call_that_may_be_cut_short_must_not_be_run(stop):
    (entry,) = stored(answer(tool_use("a", path="/a"), tool_use("b", path="/b"), stop=stop))
    whole, cut = CODEC.calls(entry)
    assert whole.problem == ""
    assert stop in cut.problem


@pytest.mark.parametrize(
    ("blocks", "stop"),
    [
        ([tool_use("a")], "tool_use"),
        ([tool_use("a"), text("and th")], "max_tokens"),
    ],
)
def test_a_call_that_was_written_to_its_end_may_be_run(blocks, stop):
    (entry,) = stored(answer(*blocks, stop=stop))
    assert [call.problem for call in CODEC.calls(entry)] == [""]


def test_a_reply_is_read_from_what_is_stored():
    usage = {
        "input_tokens": 10,
        "output_tokens": 7,
        "cache_creation_input_tokens": 200,
        "cache_read_input_tokens": 3000,
        "output_tokens_details": {"thinking_tokens": 4},
    }
    thinking = {"type": "thinking", "thinking": "hm", "signature": "s"}
    blocks = [thinking, text("It is "), text("here."), tool_use("a")]
    reply = CODEC.reply(stored(answer(*blocks, stop="tool_use", usage=usage)))
    assert reply.calls == [ToolCall("a", "look", {})]
    assert reply.text == "It is here."
    assert reply.stop == "tool_use"
    assert not reply.again
    assert reply.usage == Usage(input=3210, output=7, cache_read=3000, cache_write=200, reasoning=4, requests=1)


@pytest.mark.parametrize("usage", [None, "many", {}, {"input_tokens": None, "output_tokens_details": None}])
def test_a_reply_counts_nothing_where_nothing_was_told(usage):
    reply = CODEC.reply(
        [Entry("m0", "assistant", {"role": "assistant", "content": "hi"}, "anthropic", {"usage": usage})]
    )
    assert (reply.text, reply.stop, reply.usage) == ("hi", "", Usage(requests=1))


def test_a_paused_answer_wants_to_be_called_again():
    assert CODEC.reply(stored(answer(text("searching"), stop="pause_turn"))).again


def test_a_refused_answer_asks_for_no_tools():
    reply = CODEC.reply(stored(answer(tool_use("a"), text("I can't"), stop="refusal")))
    assert (reply.calls, reply.stop, reply.text) == ([], "refusal", "I can't")


# --- requests -------------------------------------------------------------------------------------------------------


def test_the_system_prompt_travels_apart():
    request = CODEC.request(stored({"role": "system", "content": "Be brief."}, user("hi")), cache=False)
    assert request == {"system": "Be brief.", "messages": [user("hi")]}


def test_the_last_system_prompt_is_in_force():
    entries = stored(CODEC.system("Be brief."), user("hi"), CODEC.system([text("Be kind."), text(" ")]))
    assert CODEC.request(entries, cache=False)["system"] == [text("Be kind.")]


@pytest.mark.parametrize("content", ["", " \n", [], [text("")]])
def test_a_blank_system_prompt_is_left_out(content):
    entries = stored(CODEC.system("Be brief."), CODEC.system(content), user("hi"))
    assert CODEC.request(entries) == CODEC.request(stored(user("hi")))


def test_neighbours_of_the_same_role_become_one_message():
    said = messages_of(user("a"), user([text("b")]), user("c"), assistant(text("d")), user("e"))
    assert said == [user([text("a"), text("b"), text("c")]), assistant(text("d")), user("e")]


def test_a_lone_message_keeps_its_string():
    said = [user("a"), {"role": "assistant", "content": "b"}]
    assert messages_of(*said) == said


def test_an_answer_that_was_paused_and_went_on_is_one_message():
    said = messages_of(user("a"), answer(text("b"), stop="pause_turn"), answer(text("c")))
    assert said == [user("a"), assistant(text("b"), text("c"))]


def test_results_of_parallel_calls_and_what_the_user_says_next_share_a_message():
    results = [CODEC.result(ToolCall(call, "look", {}), call) for call in ("x", "y")]
    said = messages_of(user("a"), assistant(tool_use("x"), tool_use("y")), *results, user("go on"))
    assert said[2:] == [user([tool_result("x", "x"), tool_result("y", "y"), text("go on")])]


def test_tool_results_stand_first_in_their_message():
    said = messages_of(
        user("a"),
        assistant(tool_use("x"), tool_use("y")),
        user([text("hurry"), tool_result("x")]),
        CODEC.result(CALL, "z"),
    )
    assert said[2] == user([tool_result("x"), tool_result("toolu_1", "z"), text("hurry")])


def test_blank_text_is_left_out_of_the_request_and_stays_in_the_thread():
    thinking = {"type": "thinking", "thinking": "", "signature": "s"}
    spoken = answer(thinking, text(""), tool_use("x"), stop="tool_use")
    entries = stored(user("a"), spoken, CODEC.result(CALL, [text("  "), text("b")]))
    request = CODEC.request(entries, cache=False)
    assert request["messages"][1:] == [
        assistant(thinking, tool_use("x")),
        user([tool_result("toolu_1", [text("b")])]),
    ]
    assert entries[1].body["content"][1] == text("")


def test_a_message_of_blank_text_alone_is_left_out_and_its_neighbours_meet():
    said = messages_of(user("a"), answer(text("\n")), user("b"))
    assert said == [user([text("a"), text("b")])]


@pytest.mark.parametrize("thoughts", [[THINKING], [HIDDEN_THINKING], [THINKING, HIDDEN_THINKING]])
def test_thoughts_at_the_end_of_an_answer_are_left_out_of_the_request_and_stay_in_the_thread(thoughts):
    entries = stored(user("a"), answer(text("b"), *thoughts, stop="max_tokens"), user("c"))
    request = CODEC.request(entries, cache=False)
    assert request["messages"] == [user("a"), assistant(text("b")), user("c")]
    assert entries[1].body == assistant(text("b"), *thoughts)


@pytest.mark.parametrize("said", [[THINKING], [THINKING, text("\n")], [HIDDEN_THINKING, text(""), THINKING]])
def test_an_answer_of_thoughts_alone_is_left_out_and_its_neighbours_meet(said):
    assert messages_of(user("a"), answer(*said, stop="max_tokens"), user("b")) == [user([text("a"), text("b")])]
    assert messages_of(user("a"), answer(*said, stop="max_tokens")) == [user("a")]


def test_thoughts_that_the_answer_went_on_from_stay():
    said = messages_of(user("a"), answer(THINKING), answer(tool_use("x")), user([tool_result("x")]))
    assert said[1] == assistant(THINKING, tool_use("x"))


def test_a_server_tools_call_without_a_result_is_left_out_once_the_user_goes_on():
    entries = stored(user("a"), answer(text("b"), THINKING, search("s"), stop="pause_turn"), user("c"))
    request = CODEC.request(entries, cache=False)
    assert request["messages"] == [user("a"), assistant(text("b")), user("c")]
    assert entries[1].body["content"][-1] == search("s")


def test_an_answer_of_lost_calls_alone_is_left_out_and_its_neighbours_meet():
    assert messages_of(user("a"), answer(search("s"), stop="pause_turn"), user("b")) == [user([text("a"), text("b")])]


def test_a_paused_answer_goes_back_with_its_open_call():
    said = [user("a"), assistant(text("b"), search("s"))]
    assert messages_of(*said) == said


def test_a_server_tool_may_go_on_behind_the_apps_own_results():
    said = [user("a"), assistant(search("s"), tool_use("x"), tool_use("y")), user([tool_result("x"), tool_result("y")])]
    assert messages_of(*said) == said
    assert messages_of(*said, user("b"))[1] == assistant(tool_use("x"), tool_use("y"))


@pytest.mark.parametrize("between", [[], [user([tool_result("x")])]])
def test_a_server_tools_call_whose_result_came_later_stays(between):
    asked, went_on = assistant(search("s"), tool_use("x")), assistant(found("s"), text("b"))
    said = messages_of(user("a"), asked, *between, went_on, user("c"))
    assert [block for message in said[1:-1] for block in message["content"]] == [
        block for message in [asked, *between, went_on] for block in message["content"]
    ]


def test_the_calls_of_an_earlier_pause_are_told_from_those_of_the_last():
    lost, paused = assistant(text("b"), search("s")), assistant(text("d"), search("t"))
    assert messages_of(user("a"), lost, user("c"), paused)[1::2] == [assistant(text("b")), paused]


def test_tools_are_described_as_the_api_takes_them():
    schema = {"type": "object", "properties": {"path": {"type": "string"}}}
    tools = [ToolDefinition("look", "Look at a file.", schema), ToolDefinition("stop", "", {}, strict=False)]
    request = CODEC.request(stored(user("hi")), tools=tools, cache=False)
    assert request["tools"] == [
        {"name": "look", "description": "Look at a file.", "input_schema": schema},
        {"name": "stop", "description": "", "input_schema": {}, "strict": False},
    ]
    request["tools"][0]["input_schema"]["properties"].clear()
    assert schema["properties"]


def test_a_request_without_tools_does_not_name_them():
    assert "tools" not in CODEC.request(stored(user("hi")))


@pytest.mark.parametrize("cache", [True, False])
def test_nothing_that_is_done_to_a_request_reaches_the_thread(cache):
    entries = stored(CODEC.system([text("s")]), user([text("a", more=[1])]), assistant(tool_use("x", deep=[1])))
    before = deepcopy(entries)
    request = CODEC.request(entries, cache=cache)
    request["system"][0]["text"] = "changed"
    request["messages"][0]["content"][0]["more"].append(2)
    request["messages"][1]["content"][0]["input"]["deep"].append(2)
    CODEC.native(entries)[1]["content"].clear()
    CODEC.calls(entries[2])[0].args["deep"].append(2)
    assert entries == before


def test_native_messages_are_the_stored_bodies():
    said = [user("a"), assistant(text("b"))]
    assert CODEC.native(stored(*said)) == said


def test_a_thread_may_be_cut_anywhere():
    entries = stored(user("a"), assistant(text("b")), user("c"))
    assert [CODEC.cut(entries, at) for at in range(4)] == [0, 1, 2, 3]


def test_an_option_that_is_not_known_is_refused():
    with pytest.raises(TypeError):
        CODEC.request(stored(user("a")), caching=True)


# --- hooks on prepared messages -------------------------------------------------------------------------------------


def test_without_a_hook_messages_go_as_they_are():
    assert messages_of(user("a"), prepared=None) == [user("a")]


def test_the_hook_sees_messages_once_neighbours_are_one_and_no_system_prompt():
    seen: list[Any] = []

    def shout(message: Any, index: int, messages: list[Any]) -> Any:
        seen.append((index, message, list(messages)))
        return {**message, "content": [text("HI")]}

    said = messages_of(CODEC.system("Be brief."), user("a"), user("b"), assistant(text("c")), prepared=shout)
    whole = [user([text("a"), text("b")]), assistant(text("c"))]
    assert seen == [(0, whole[0], whole), (1, whole[1], whole)]
    assert said == [user([text("HI")]), assistant(text("HI"))]


def test_what_the_hook_gives_is_what_the_cache_marks():
    request = CODEC.request(stored(user("a")), prepared=lambda message, index, messages: user("changed"))
    assert request["messages"] == [user([text("changed", cache_control=FIVE_MINUTES)])]


def test_a_hook_that_changes_messages_in_place_does_not_change_the_thread():
    def wipe(message: Any, index: int, messages: list[Any]) -> Any:
        message["content"][0]["text"] = "gone"
        return message

    entries = stored(user([text("a")]))
    assert CODEC.request(entries, prepared=wipe, cache=False)["messages"] == [user([text("gone")])]
    assert entries[0].body == user([text("a")])


# --- prompt cache ---------------------------------------------------------------------------------------------------


def marked(block: dict[str, Any], control: dict[str, Any] | None = None) -> dict[str, Any]:
    return {**block, "cache_control": control or FIVE_MINUTES}


def markers(value: Any) -> Iterator[dict[str, Any]]:
    """All cache markers of a request, in its order of tools, system, messages."""
    if isinstance(value, dict):
        ordered = [value.get(name) for name in ("tools", "system", "messages")]
        rest = [inner for name, inner in value.items() if name not in ("tools", "system", "messages", "cache_control")]
        for inner in [*ordered, *rest]:
            yield from markers(inner)
        if value.get("cache_control"):
            yield value["cache_control"]
    elif isinstance(value, list):
        for inner in value:
            yield from markers(inner)


def test_the_cache_is_on_by_default():
    assert CODEC.request(stored(user("hi"))) == CODEC.request(stored(user("hi")), cache=True)
    assert list(markers(CODEC.request(stored(user("hi"))))) == [FIVE_MINUTES]
    assert with_cache({"messages": [user("hi")]}) == {"messages": [user([marked(text("hi"))])]}


def test_the_cache_can_be_turned_off():
    request = {"messages": [user("hi")]}
    assert with_cache(request, False) is request
    assert CODEC.request(stored(user("hi")), cache=False) == request


def test_a_string_at_the_tail_becomes_a_marked_block_and_the_request_itself_is_not_marked():
    request = with_cache({"messages": [user("a"), assistant(text("b")), user("c")]})
    assert request == {"messages": [user("a"), assistant(text("b")), user([marked(text("c"))])]}


def test_the_cache_lives_for_an_hour_where_that_is_asked():
    request = with_cache({"system": "s", "messages": [user("hi")]}, "1h")
    assert request == {"system": [marked(text("s"), HOUR)], "messages": [user([marked(text("hi"), HOUR)])]}


def test_a_fifth_marker_is_never_set():
    request = {
        "tools": [marked({"name": "look"})],
        "system": [marked(text("s"))],
        "messages": [user([marked(text("a")), marked(text("b"))]), assistant(text("c")), user("d")],
    }
    assert with_cache(request) is request


def test_a_tail_that_is_marked_stays_as_it_is():
    request = {"messages": [user([text("a"), marked(text("b"), {"type": "ephemeral"})])]}
    assert with_cache(request, "1h") is request


def test_the_end_of_the_system_prompt_is_marked_too():
    request = with_cache({"tools": [{"name": "look"}], "system": [text("s"), text("t")], "messages": [user("hi")]})
    assert request["tools"] == [{"name": "look"}]
    assert request["system"] == [text("s"), marked(text("t"))]
    assert request["messages"] == [user([marked(text("hi"))])]


def test_the_last_tool_is_marked_where_there_is_no_system_prompt():
    request = with_cache({"tools": [{"name": "look"}, {"name": "write"}], "messages": [user("hi")]})
    assert request["tools"] == [{"name": "look"}, marked({"name": "write"})]


def test_what_takes_no_marker_is_passed_over():
    skipped = [
        {"type": "thinking", "thinking": "hm", "signature": "s"},
        {"type": "redacted_thinking", "data": "x"},
        text(" "),
        {"type": "kind_of_tomorrow"},
    ]
    request = with_cache({"messages": [user("a"), assistant(tool_use("x"), *skipped), assistant(*skipped)]})
    assert request["messages"] == [user("a"), assistant(marked(tool_use("x")), *skipped), assistant(*skipped)]


def test_a_request_with_nothing_to_mark_stays_as_it_is():
    request = {"messages": [assistant({"type": "redacted_thinking", "data": "x"})]}
    assert with_cache(request) is request


def test_markers_inside_tool_results_and_documents_count():
    nested = tool_result("x", [marked(text("a")), marked(text("b"))])
    document = {"type": "document", "source": {"type": "content", "content": [marked(text("c"))]}}
    request = {"system": "s", "messages": [user([nested, document, text("d")])]}
    assert with_cache(request)["system"] == "s"
    assert with_cache(request)["messages"][0]["content"][-1] == marked(text("d"))
    assert with_cache(request, max_breakpoints=3) is request


def test_what_only_looks_like_a_marker_does_not_count():
    call = tool_use("x", cache_control={"type": "ephemeral"}, content=[{"cache_control": {"type": "ephemeral"}}])
    request = {"messages": [user("a"), assistant(call), user([tool_result("x")])]}
    assert list(markers(with_cache(request, max_breakpoints=1)["messages"][2])) == [FIVE_MINUTES]


def test_the_tail_has_precedence_where_one_marker_is_left():
    request = with_cache({"system": "s", "messages": [user("hi")]}, max_breakpoints=1)
    assert request == {"system": "s", "messages": [user([marked(text("hi"))])]}


@pytest.mark.parametrize("most", [0, -1])
def test_no_marker_is_set_where_none_is_allowed(most):
    request = {"system": "s", "messages": [user("hi")]}
    assert with_cache(request, max_breakpoints=most) is request


def test_an_hours_marker_never_stands_behind_one_for_five_minutes():
    request = with_cache(
        {"system": "s", "messages": [user([marked(text("a"))]), assistant(text("b")), user("c")]}, "1h"
    )
    assert [marker["ttl"] for marker in markers(request)] == ["1h", "5m", "5m"]


def test_a_marker_inside_a_result_stands_before_the_results_own():
    request = with_cache({"messages": [user([tool_result("x", [marked(text("a"))])])]}, "1h")
    assert [marker["ttl"] for marker in markers(request)] == ["5m", "5m"]


def test_a_marker_without_a_time_to_live_counts_as_one_for_five_minutes():
    plain = {"type": "ephemeral"}
    request = with_cache({"messages": [user([marked(text("a"), plain), text("b")])]}, "1h")
    assert list(markers(request)) == [plain, FIVE_MINUTES]


def test_a_marker_for_five_minutes_never_stands_before_one_for_an_hour():
    request = with_cache({"system": "s", "messages": [user([marked(text("a"), HOUR)]), assistant(text("b"))]})
    assert [marker["ttl"] for marker in markers(request)] == ["1h", "1h", "5m"]


def test_anthropic_may_choose_the_places_itself():
    request = CODEC.request(stored(CODEC.system("s"), user("hi")), cache="auto")
    assert request == {"system": "s", "messages": [user("hi")], "cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize("cache", ["10m", "", None, 0, 300, ["5m"]])
def test_another_cache_is_refused_with_what_is_allowed(cache):
    with pytest.raises(ValueError, match="True, False, '5m', '1h' or 'auto'"):
        CODEC.request(stored(user("hi")), cache=cache)


def test_markers_are_never_stored():
    entries = stored(CODEC.system("s"), user("hi"))
    CODEC.request(entries, cache="1h")
    assert [entry.body["content"] for entry in entries] == ["s", "hi"]


# --- properties -----------------------------------------------------------------------------------------------------

unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no failure
TEXT = st.text(min_size=1).filter(str.strip)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
ARGS = st.dictionaries(st.text(), JSON, max_size=3)
SAID = st.builds(text, TEXT)
THOUGHT = st.builds(
    lambda said, signature: {"type": "thinking", "thinking": said, "signature": signature}, st.text(), st.text()
)
HIDDEN = st.builds(lambda data: {"type": "redacted_thinking", "data": data}, st.text())
CALLED = st.builds(lambda name, args: {"type": "tool_use", "id": "x", "name": name, "input": args}, st.text(), ARGS)
SERVED = st.builds(lambda args: {"type": "server_tool_use", "id": "s", "name": "web_search", "input": args}, ARGS)
FOUND = st.builds(lambda found: {"type": "web_search_tool_result", "tool_use_id": "s", "content": found}, JSON)
UNKNOWN = st.builds(lambda facts: {**facts, "type": "kind_of_tomorrow"}, ARGS)
ANSWERED = st.builds(lambda content: tool_result("x", content), st.text() | st.lists(SAID | UNKNOWN, max_size=2))
ANSWER = st.lists(SAID | THOUGHT | HIDDEN | CALLED | SERVED | FOUND | UNKNOWN, min_size=1, max_size=4)
QUESTION = st.builds(
    lambda results, said: results + said, st.lists(ANSWERED, max_size=2), st.lists(SAID | UNKNOWN, min_size=1)
)
SEARCHED = st.tuples(SERVED, FOUND).map(list)
WHOLE_ANSWER = st.builds(
    lambda said, searched, last: [*said, *searched, last],
    st.lists(SAID | THOUGHT | HIDDEN | CALLED | FOUND | UNKNOWN, max_size=3),
    st.just([]) | SEARCHED,
    SAID | CALLED | UNKNOWN,
)
EXCHANGES = st.lists(st.tuples(TEXT | QUESTION, WHOLE_ANSWER), max_size=3)
OPTIONS = st.fixed_dictionaries(
    {}, optional={"cache": st.sampled_from([True, False, "5m", "1h", "auto"]), "max_breakpoints": st.integers(-1, 5)}
)


@unhurried
@given(EXCHANGES)
def test_alternating_messages_come_back_as_they_were_sent(exchanges):
    said = [message for asked, answered in exchanges for message in (user(asked), assistant(*answered))]
    sent = CODEC.request(stored(*said), cache=False)["messages"]
    assert dump_json(sent) == dump_json(said)


@unhurried
@given(
    st.lists(
        st.sampled_from(["user", "assistant", "system"]).flatmap(lambda role: st.tuples(st.just(role), TEXT | ANSWER))
    ),
    OPTIONS,
)
def test_a_stored_thread_makes_the_same_request_to_the_byte(said, options):
    parts = [CODEC.encode({"role": role, "content": content}, "m")[0] for role, content in said]
    entries = [Entry(f"m{at}", part.kind, part.body, "anthropic", part.meta) for at, part in enumerate(parts)]
    kept = [Entry.from_record(entry.to_record()) for entry in entries]
    assert dump_json(CODEC.request(kept, **options)) == dump_json(CODEC.request(entries, **options))
    assert [entry.to_record() for entry in kept] == [entry.to_record() for entry in entries]


@unhurried
@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXT | ANSWER)))
def test_roles_of_a_request_alternate(said):
    roles = [
        message["role"] for message in messages_of(*({"role": role, "content": content} for role, content in said))
    ]
    assert all(one != other for one, other in pairwise(roles))


def unmarked(request: dict[str, Any]) -> Any:
    """A request without its markers, and with text as blocks."""

    def blocks(content: Any) -> Any:
        given = [text(content)] if isinstance(content, str) else content
        return [{name: value for name, value in block.items() if name != "cache_control"} for block in given]

    messages = [{**message, "content": blocks(message["content"])} for message in request["messages"]]
    return {
        **request,
        "messages": messages,
        **{name: blocks(request[name]) for name in ("system", "tools") if name in request},
    }


CONTROL = st.sampled_from([None, {"type": "ephemeral"}, FIVE_MINUTES, HOUR])
BLOCK = st.builds(
    lambda block, control: block if control is None else marked(block, control),
    SAID | THOUGHT | CALLED | ANSWERED,
    CONTROL,
)
REQUEST = st.fixed_dictionaries(
    {"messages": st.lists(st.builds(user, TEXT | st.lists(BLOCK, max_size=3)), max_size=3)},
    optional={"system": TEXT | st.lists(BLOCK, max_size=2), "tools": st.lists(st.just({"name": "look"}), max_size=2)},
)


@unhurried
@given(REQUEST, st.sampled_from(["5m", "1h"]), st.integers(-1, 5))
def test_marking_adds_at_most_two_markers_and_changes_nothing_else(request_, ttl, most):
    before = json.dumps(request_)
    marked_ = with_cache(request_, ttl, most)
    assert json.dumps(request_) == before
    assert unmarked(marked_) == unmarked(request_)
    had, has = len(list(markers(request_))), len(list(markers(marked_)))
    assert had <= has <= max(had, min(had + 2, most))


@unhurried
@given(REQUEST, st.sampled_from(["5m", "1h"]))
def test_marking_keeps_an_order_of_times_to_live_that_anthropic_takes(request_, ttl):
    def in_order(request: dict[str, Any]) -> bool:
        found = [marker.get("ttl", "5m") for marker in markers(request)]
        return found == sorted(found)  # "1h" < "5m"

    assert not in_order(request_) or in_order(with_cache(request_, ttl))
