"""The codec of LangChain with its own messages: they are kept, rebuilt as equal objects, and models take them."""

import asyncio
import json
from copy import deepcopy

import pytest
from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel, GenericFakeChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    HumanMessage,
    HumanMessageChunk,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
    message_chunk_to_message,
    messages_to_dict,
)

from threadkeep.errors import EmptyReply, InvalidMessage
from threadkeep.model import Entry
from threadkeep.session.codecs.base import ToolCall, ToolDefinition, Usage
from threadkeep.session.codecs.langchain import LangChainCodec
from threadkeep.session.codecs.langchain_cache import append_cache_point

CODEC = LangChainCodec()
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [ToolDefinition("weather", "Tells the weather.", SCHEMA, strict=True)]
CALL = {"name": "weather", "args": {"city": "Paris", "unit": None}, "id": "c1", "type": "tool_call"}
THOUGHTS = [
    {"type": "thinking", "thinking": "Which city?", "signature": "+/8= signed"},
    {"type": "text", "text": "I look."},
    {"type": "tool_use", "id": "c1", "name": "weather", "input": {"city": "Paris", "unit": None}},
    {"type": "kind_of_tomorrow", "value": {"a": None}},
]
ANSWER = AIMessage(
    THOUGHTS,
    id="msg_1",
    tool_calls=[CALL],
    invalid_tool_calls=[{"name": "time", "args": "{", "id": "c2", "error": "no JSON", "type": "invalid_tool_call"}],
    usage_metadata={"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
    response_metadata={"model_name": "m1", "stop_reason": "tool_use"},
)
MESSAGES = [
    SystemMessage("Be brief."),
    HumanMessage(["Look", {"type": "image", "base64": "+/8=", "mime_type": "image/png"}], name="Ann", id="h1"),
    ANSWER,
    ToolMessage("sunny", tool_call_id="c1", name="weather", artifact={"raw": [1]}),
    ToolMessage([{"type": "text", "text": "no JSON"}], tool_call_id="c2", status="error"),
    ChatMessage("x", role="moderator"),
    AIMessage("Fine."),
]


def kept(*messages):
    """Messages as entries that went through a store."""
    parts = [part for at, message in enumerate(messages) for part in CODEC.encode(message, f"m{at}")]
    entries = [Entry(f"m{at}", part.kind, part.body, CODEC.name, part.meta) for at, part in enumerate(parts)]
    return [Entry.from_record(entry.to_record()) for entry in entries]


def said(*parts):
    return [Entry(f"p{at}", part.kind, part.body, CODEC.name, part.meta) for at, part in enumerate(parts)]


class Echo(GenericFakeChatModel):
    """A model of LangChain's that also keeps what it was called with."""

    seen: list = []  # noqa: RUF012

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.seen.append((messages, kwargs))
        return super()._generate(messages, stop, run_manager, **kwargs)


# --- kept and rebuilt -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.type)
def test_a_message_is_stored_as_langchain_writes_it_and_comes_back_equal(message):
    [entry] = kept(message)
    assert entry.body == json.loads(json.dumps(messages_to_dict([message])[0]))
    assert CODEC.native([entry]) == [message]


def test_the_kinds_of_messages():
    kinds = ["system", "user", "assistant", "tool", "tool", "user", "assistant"]
    assert [entry.kind for entry in kept(*MESSAGES)] == kinds


def test_messages_of_langchains_javascript_are_rebuilt():
    [entry] = kept({"type": "ai", "data": {"content": "x", "id": "js", "tool_calls": [CALL], "response_metadata": {}}})
    assert CODEC.native([entry]) == [AIMessage("x", id="js", tool_calls=[CALL])]


def test_dicts_with_a_role_are_rebuilt_as_messages():
    entries = kept({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"})
    assert CODEC.native(entries) == [HumanMessage("Hi"), AIMessage("Hello")]


def test_a_system_prompt_without_langchains_form_is_rebuilt_too():
    entry = Entry("s", "system", {"role": "system", "content": "Be brief."}, CODEC.name)
    assert CODEC.native([entry]) == [SystemMessage("Be brief.")]


def test_bytes_in_content_are_stored_as_base64():
    message = HumanMessage([{"type": "image", "base64": b"\xfb\xff", "mime_type": "image/png"}])
    [entry] = kept(message)
    assert CODEC.native([entry])[0].content == [{"type": "image", "base64": "+/8=", "mime_type": "image/png"}]
    assert message.content[0]["base64"] == b"\xfb\xff"


def test_an_artifact_of_the_apps_own_stays_behind():
    [entry] = kept(ToolMessage("x", tool_call_id="c", artifact=object()))
    assert CODEC.native([entry]) == [ToolMessage("x", tool_call_id="c")]
    assert entry.meta == {"dropped": ["artifact"]}


def test_a_chunk_is_kept_as_a_message():
    chunk = AIMessageChunk("x", tool_call_chunks=[{"name": "f", "args": "{}", "id": "c", "index": 0}], id="r")
    [entry] = kept(chunk)
    assert CODEC.native([entry]) == [message_chunk_to_message(chunk)]
    assert type(CODEC.native(kept(HumanMessageChunk(content="x")))[0]) is HumanMessage


def test_a_message_whose_fields_the_app_replaced_is_kept_without_a_warning():
    message = AIMessage("x")
    message.tool_calls = (CALL,)
    assert CODEC.native(kept(message)) == [AIMessage("x", tool_calls=[CALL])]


def test_an_order_to_langgraph_is_no_message():
    with pytest.raises(InvalidMessage, match="must be one of human, system"):
        CODEC.encode(RemoveMessage(id="1"), "m")


def test_text_is_no_message():
    with pytest.raises(InvalidMessage, match="use user"):
        CODEC.encode("Hi", "m")


# --- models ---------------------------------------------------------------------------------------------------------


def test_a_model_takes_the_request_and_its_answer_is_kept():
    model = Echo(messages=iter([ANSWER]))
    entries = said(CODEC.system("Be brief."), CODEC.user("Hi"))
    reply = CODEC.reply(kept(model.invoke(**CODEC.request(entries, tools=TOOLS))))
    [(messages, options)] = model.seen
    assert messages == [SystemMessage("Be brief."), HumanMessage("Hi")]
    function = {"name": "weather", "description": "Tells the weather.", "parameters": SCHEMA, "strict": True}
    assert options["tools"] == [{"type": "function", "function": function}]
    assert [(call.id, bool(call.problem)) for call in reply.calls] == [("c1", False), ("c2", True)]
    assert reply.usage == Usage(5, 7, requests=1)
    assert (reply.text, reply.stop) == ("I look.", "tool_use")


def test_a_stream_is_kept_as_one_answer():
    model = GenericFakeChatModel(messages=iter([AIMessage("Hello there, you")]))
    chunks = list(model.stream("Hi"))
    [message] = CODEC.native(kept(chunks))
    assert len(chunks) > 1
    assert type(message) is AIMessage
    assert (message.content, message.id) == ("Hello there, you", chunks[0].id)


def test_the_pieces_of_a_streamed_call_are_one_call():
    chunks = [
        AIMessageChunk("", tool_call_chunks=[{"name": "weather", "args": '{"city"', "id": "c1", "index": 0}]),
        AIMessageChunk("", tool_call_chunks=[{"name": None, "args": ': "Paris"}', "id": None, "index": 0}]),
    ]
    [entry] = kept(chunks)
    assert CODEC.calls(entry) == [ToolCall("c1", "weather", {"city": "Paris"})]


def test_a_call_that_a_cut_stream_left_with_wrong_arguments_must_not_be_run():
    pieces = [{"name": "write", "args": '{"path": "/a", "text": "abc', "id": "c1", "index": 0}]
    chunks = [
        AIMessageChunk("", tool_call_chunks=pieces),
        AIMessageChunk("", response_metadata={"finish_reason": "length"}),
    ]
    [call] = CODEC.calls(kept(chunks)[0])
    assert call.args == {"path": "/a", "text": "abc"}
    assert call.problem == "the answer was cut short (length)"


def test_asyncio_answers_and_streams_are_kept_the_same():
    model = GenericFakeChatModel(messages=iter([AIMessage("one"), AIMessage("t w o")]))

    async def play():
        one = await model.ainvoke(**CODEC.request(said(CODEC.user("Hi"))))
        return [CODEC.reply(kept(each)).text for each in (one, [chunk async for chunk in model.astream("Hi")])]

    assert asyncio.run(play()) == ["one", "t w o"]


def test_an_answer_without_anything_is_an_empty_reply():
    model = FakeMessagesListChatModel(responses=[AIMessage("", response_metadata={"finish_reason": "SAFETY"})])
    with pytest.raises(EmptyReply) as caught:
        CODEC.encode(model.invoke("Hi"), "m")
    assert caught.value.stop == "SAFETY"


def test_results_go_to_the_model_as_tool_messages():
    entry = kept(AIMessage("", tool_calls=[CALL]))[0]
    [call] = CODEC.calls(entry)
    results = said(CODEC.result(call, {"sky": None}), CODEC.result(call, "boom", error=True))
    assert CODEC.request([entry, *results])["input"][1:] == [
        ToolMessage('{"sky":null}', tool_call_id="c1", name="weather"),
        ToolMessage("boom", tool_call_id="c1", name="weather", status="error"),
    ]


# --- requests -------------------------------------------------------------------------------------------------------


def test_the_last_system_prompt_is_in_force_and_stands_first():
    entries = said(CODEC.system("old"), CODEC.user("Hi"), CODEC.system("new"), CODEC.user("Ho"))
    assert CODEC.request(entries) == {"input": [SystemMessage("new"), HumanMessage("Hi"), HumanMessage("Ho")]}
    assert [message.content for message in CODEC.native(entries)] == ["old", "Hi", "new", "Ho"]


def test_a_stored_thread_sends_the_same_request_as_before():
    parts = [part for at, message in enumerate(MESSAGES) for part in CODEC.encode(message, f"m{at}")]
    assert CODEC.request(kept(*MESSAGES), tools=TOOLS) == CODEC.request(said(*parts), tools=TOOLS)
    assert CODEC.request(kept(*MESSAGES))["input"] == MESSAGES


def test_without_a_hook_messages_are_as_they_were_stored():
    assert CODEC.request(kept(*MESSAGES[1:]))["input"] == MESSAGES[1:]


def test_a_hook_sees_each_message_object_its_place_and_the_whole_list_the_system_prompt_among_them():
    seen = []

    def prepared(message, index, messages):
        seen.append((type(message), index, len(messages)))
        return message

    CODEC.request(said(CODEC.system("s"), CODEC.user("a")), prepared=prepared)
    assert seen == [(SystemMessage, 0, 2), (HumanMessage, 1, 2)]


def test_what_a_hook_gives_is_sent():
    def shout(message, index, messages):
        return message.model_copy(update={"content": message.content.upper()})

    assert CODEC.request(said(CODEC.user("a")), prepared=shout)["input"] == [HumanMessage("A")]


def test_a_hook_may_change_its_message_in_place_for_it_shares_nothing_with_what_is_stored():
    def spoil(message, index, messages):
        if isinstance(message.content, list):
            for block in message.content:
                if isinstance(block, dict):
                    block.get("input", {}).clear()
                    block.clear()
        message.additional_kwargs["spoiled"] = True
        for call in getattr(message, "tool_calls", []):
            call["args"].clear()
        return message

    entries = kept(*MESSAGES)
    before = deepcopy(entries)
    request = CODEC.request(entries, tools=TOOLS, prepared=spoil)
    request["tools"][0]["function"]["parameters"].clear()
    CODEC.calls(entries[2])[0].args.clear()
    assert entries == before
    assert TOOLS[0].schema


def test_what_is_handed_in_is_neither_changed_nor_shared():
    message = ANSWER.model_copy(deep=True)
    [part] = CODEC.encode(message, "m")
    part.body["data"]["content"][2]["input"].clear()
    part.body["data"]["tool_calls"][0]["args"].clear()
    assert message == ANSWER


# --- cache points ---------------------------------------------------------------------------------------------------

POINT = {"type": "cache_point", "ttl": "5m"}
BEDROCK = {"cachePoint": {"type": "default"}}


def text(text):
    return {"type": "text", "text": text}


def pointed(*contents, block=POINT, **options):
    hook = append_cache_point(block, **options)
    messages: list[BaseMessage] = [HumanMessage(content) for content in contents]
    return [hook(message, index, messages).content for index, message in enumerate(messages)]


@pytest.mark.parametrize("block", [POINT, BEDROCK])
def test_the_last_message_ends_with_a_cache_point(block):
    assert pointed([text("a")], [text("b")], block=block) == [[text("a")], [text("b"), block]]


@pytest.mark.parametrize("block", [POINT, BEDROCK])
def test_a_cache_point_is_not_set_twice(block):
    assert pointed([text("a"), block], block=block) == [[text("a"), block]]
    assert pointed([text("a"), {**POINT, "ttl": "1h"}]) == [[text("a"), {**POINT, "ttl": "1h"}]]


def test_there_are_never_more_than_four_cache_points_and_the_newest_stay():
    contents = pointed(*[[text(str(at)), POINT] for at in range(6)], [text("last")])
    assert [POINT in content for content in contents] == [False, False, False, True, True, True, True]
    assert [content[0] for content in contents[:6]] == [text(str(at)) for at in range(6)]


@pytest.mark.parametrize(("max_blocks", "stay"), [(1, [False, False, True]), (2, [False, True, True])])
def test_fewer_may_be_allowed(max_blocks, stay):
    contents = pointed([text("a"), POINT], [text("b"), POINT], [text("c")], max_blocks=max_blocks)
    assert [POINT in content for content in contents] == stay


def test_up_to_four_are_left_as_they_are():
    contents = [[text("a"), POINT], [text("b"), POINT], "plain", [text("c"), POINT]]
    assert pointed(*contents, [text("d")]) == [*contents, [text("d"), POINT]]


def test_text_becomes_a_block_where_a_cache_point_is_set_behind_it():
    assert pointed("a", "b") == ["a", [text("b"), POINT]]
    assert pointed("") == [[POINT]]


def test_other_blocks_stay_where_a_cache_point_is_taken_away():
    other = {"type": "image", "url": "u"}
    contents = pointed([other, POINT, "text", {"ttl": "1h"}], [text("b")], max_blocks=1)
    assert contents[0] == [other, "text", {"ttl": "1h"}]


def test_messages_and_the_block_are_not_changed_by_the_hook():
    messages = [HumanMessage([text("a"), POINT]), HumanMessage("b")]
    before = deepcopy(messages)
    hook = append_cache_point(BEDROCK, max_blocks=1)
    sent = [hook(message, index, messages) for index, message in enumerate(messages)]
    sent[1].content[-1]["cachePoint"]["type"] = "spoiled"
    assert messages == before
    assert BEDROCK == {"cachePoint": {"type": "default"}}


def test_the_hook_works_on_a_request_and_leaves_what_is_stored():
    entries = kept(HumanMessage("a"), AIMessage("b"), HumanMessage("c"))
    sent = CODEC.request(entries, prepared=append_cache_point(BEDROCK))["input"]
    assert [message.content for message in sent] == ["a", "b", [text("c"), BEDROCK]]
    assert CODEC.native(entries)[2].content == "c"
