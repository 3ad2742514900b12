"""Chat Completions through OpenAI's own SDK: its answers are stored as JSON, and go back as if they never had been."""

import asyncio
import json

import openai
import pytest
from pydantic import BaseModel

from tests.sdk.fake_provider import Answer, FakeProvider
from threadkeep.errors import EmptyReply, InvalidMessage
from threadkeep.model import Entry
from threadkeep.session.codecs import codec_for
from threadkeep.session.codecs.base import ToolDefinition, Usage

CODEC = codec_for("openai-chat")
MODES = ["unary", "streamed", "async unary", "async streamed"]
TOOLS = [ToolDefinition("weather", "Tell the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})]
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 9,
    "total_tokens": 29,
    "prompt_tokens_details": {"cached_tokens": 8},
    "completion_tokens_details": {"reasoning_tokens": 6},
}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo=", "detail": "low"}}
FILE = {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}}
CUSTOM = {"id": "call_2", "type": "custom", "custom": {"name": "sql", "input": "SELECT 'é' -- 😀"}}


class Talk:
    """A thread's entries, and the provider that answers to them."""

    def __init__(self, provider: FakeProvider, mode: str) -> None:
        self.provider, self.mode, self.entries = provider, mode, []

    def add(self, message):
        entry_id = f"m{len(self.entries)}"
        added = [
            Entry(entry_id, part.kind, part.body, CODEC.name, part.meta) for part in CODEC.encode(message, entry_id)
        ]
        self.entries += added
        return CODEC.reply(added)

    def answer(self, message, stop="stop", **options):
        """The next answer of the model, kept; what was asked is the same before and after a way through JSON."""
        whole = completion(message, stop)
        self.provider.script(Answer(events=chunks(message, stop)) if "streamed" in self.mode else whole)
        rebuilt = [Entry.from_record(entry.to_record()) for entry in self.entries]
        assert rebuilt == self.entries
        request = CODEC.request(rebuilt, tools=TOOLS, **options)
        assert request == CODEC.request(self.entries, tools=TOOLS, **options)
        reply = self.add(ask(self.provider, self.mode, request))
        assert self.sent == json.loads(json.dumps(request["messages"]))
        return reply

    @property
    def sent(self):
        return self.provider.bodies[-1]["messages"]


@pytest.fixture(params=MODES)
def talk(provider, request):
    return Talk(provider, request.param)


def ask(provider, mode, request):
    made = {"base_url": f"{provider.url}/v1", "api_key": "x", "max_retries": 0}
    if mode.startswith("async"):
        return asyncio.run(ask_async(made, mode, request))
    with openai.OpenAI(**made) as client:
        if "unary" in mode:
            return client.chat.completions.create(model="m", **request)
        with client.chat.completions.stream(model="m", **request) as stream:
            return stream.get_final_completion()


async def ask_async(made, mode, request):
    async with openai.AsyncOpenAI(**made) as client:
        if "unary" in mode:
            return await client.chat.completions.create(model="m", **request)
        async with client.chat.completions.stream(model="m", **request) as stream:
            return await stream.get_final_completion()


def completion(message, stop):
    said = {"role": "assistant", "content": None, "refusal": None, "annotations": [], **message}
    choice = {"index": 0, "finish_reason": stop, "logprobs": None, "message": said}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "gpt-x",
        "choices": [choice],
        "usage": USAGE,
    }


def chunks(message, stop):
    """The same answer in pieces, as a provider streams it."""
    deltas = [{"role": "assistant", "content": None}]
    for name, text in message.items():
        if isinstance(text, str):
            deltas += [{name: text[:3]}, {name: text[3:]}]
    for index, call in enumerate(message.get("tool_calls", [])):
        text = call["function"]["arguments"]
        deltas.append({"tool_calls": [{"index": index, **call, "function": {**call["function"], "arguments": ""}}]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}
            for piece in (text[:4], text[4:])
            if piece
        ]
    told = [*[(delta, None) for delta in deltas], ({}, stop)]
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-x"}
    events = [
        (None, {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}) for delta, reason in told
    ]
    return [*events, (None, {**frame, "choices": [], "usage": USAGE}), (None, "[DONE]")]


def call(call_id, arguments):
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": arguments}}


def test_a_conversation_goes_back_as_it_was_said(talk):
    talk.add({"role": "developer", "content": "Be brief."})
    talk.add({"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE, FILE]})
    spaced = '{ "city": null, "exact": 10000000000000000000001 }'
    reply = talk.answer({"tool_calls": [call("call_1", spaced), call("call_2", '{"city":"Łódź"}')]}, "tool_calls")
    assert [(found.id, found.args, found.problem) for found in reply.calls] == [
        ("call_1", {"city": None, "exact": 10**22 + 1}, ""),
        ("call_2", {"city": "Łódź"}, ""),
    ]
    assert reply.stop == "tool_calls"
    for found in reply.calls:
        talk.add(CODEC.result(found, {"sky": "blue"}).body)
    reply = talk.answer({"content": "Blue — 😀"})
    assert (reply.text, reply.calls) == ("Blue — 😀", [])
    assert reply.usage == Usage(input=20, output=9, cache_read=8, reasoning=6, requests=1)
    talk.add({"role": "user", "content": "Thanks."})
    talk.answer({"content": "Welcome."})
    assert talk.sent == [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, IMAGE, FILE]},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [call("call_1", spaced), call("call_2", '{"city":"Łódź"}')],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": '{"sky":"blue"}'},
        {"role": "tool", "tool_call_id": "call_2", "content": '{"sky":"blue"}'},
        {"role": "assistant", "content": "Blue — 😀"},
        {"role": "user", "content": "Thanks."},
    ]
    assert talk.provider.bodies[-1]["tools"] == [
        {
            "type": "function",
            "function": {"name": "weather", "description": "Tell the weather.", "parameters": TOOLS[0].schema},
        }
    ]


def test_the_facts_of_an_answer_stay_with_it(talk):
    talk.add({"role": "user", "content": "hi"})
    talk.answer({"content": "hi"})
    meta = talk.entries[-1].meta
    assert (meta["model"], meta["stop"], meta["native_id"]) == ("gpt-x", "stop", "chatcmpl-1")
    assert meta["usage"]["prompt_tokens_details"]["cached_tokens"] == 8


def test_a_refusal_goes_back(talk):
    talk.add({"role": "user", "content": "hi"})
    assert talk.answer({"refusal": "I will not."}).stop == "refusal"
    talk.add({"role": "user", "content": "please"})
    talk.answer({"content": "no"})
    assert talk.sent[1] == {"role": "assistant", "content": None, "refusal": "I will not."}


def test_a_vendors_reasoning_goes_back_on_demand(talk):
    talk.add({"role": "user", "content": "hi"})
    talk.answer({"content": "hello", "reasoning_content": "a greeting"})
    talk.add({"role": "user", "content": "again"})
    talk.answer({"content": "hello"})
    assert talk.sent[1] == {"role": "assistant", "content": "hello"}
    talk.add({"role": "user", "content": "again"})
    talk.answer({"content": "hello"}, send_extras=True)
    assert talk.sent[1] == {"role": "assistant", "content": "hello", "reasoning_content": "a greeting"}


def test_a_call_that_was_cut_short_is_not_run(talk):
    talk.add({"role": "user", "content": "hi"})
    with_whole_json = {"tool_calls": [call("call_1", '{"city":"Os"}')]}
    if "streamed" in talk.mode:  # the SDK's stream helper raises on "length" itself, before there is an answer
        with pytest.raises(openai.LengthFinishReasonError):
            talk.answer(with_whole_json, "length")
        return
    [found] = talk.answer(with_whole_json, "length").calls
    assert "cut short" in found.problem


def test_an_answer_that_was_blocked_is_told(talk):
    talk.add({"role": "user", "content": "hi"})
    if "streamed" in talk.mode:
        with pytest.raises(openai.ContentFilterFinishReasonError):
            talk.answer({}, "content_filter")
        return
    with pytest.raises(EmptyReply) as refused:
        talk.answer({}, "content_filter")
    assert refused.value.stop == "content_filter"


@pytest.mark.parametrize("mode", ["streamed", "async streamed"])
def test_a_role_that_is_repeated_in_each_chunk_is_one_role(provider, mode):
    """As some providers send it; the SDK puts the words of all chunks together."""
    repeated = chunks({"content": "hello"}, "stop")
    for _, chunk in repeated[:-2]:
        chunk["choices"][0]["delta"]["role"] = "assistant"
    provider.script(Answer(events=repeated))
    completion = ask(provider, mode, {"messages": []})
    assert completion.choices[0].message.role != "assistant"
    assert CODEC.encode(completion, "m")[0].body == {"role": "assistant", "content": "hello", "refusal": None}


@pytest.mark.parametrize("mode", ["unary", "async unary"])
def test_calls_of_custom_and_unknown_tools_go_back(provider, mode):
    strange = {"id": "call_3", "type": "telepathy", "telepathy": {"thought": [1.0, None]}}
    talk = Talk(provider, mode)
    talk.add({"role": "user", "content": "hi"})
    sql, telepathy = talk.answer({"tool_calls": [CUSTOM, strange]}, "tool_calls").calls
    assert (sql.name, sql.args, sql.problem) == ("sql", CUSTOM["custom"]["input"], "")
    assert telepathy.problem
    talk.add(CODEC.result(sql, b"\xff\xfe").body)
    talk.add(CODEC.result(telepathy, [{"type": "text", "text": "?"}]).body)
    talk.answer({"content": "done"})
    assert talk.sent[1:] == [
        {"role": "assistant", "content": None, "tool_calls": [CUSTOM, strange]},
        {"role": "tool", "tool_call_id": "call_2", "content": "//4="},
        {"role": "tool", "tool_call_id": "call_3", "content": [{"type": "text", "text": "?"}]},
    ]


@pytest.mark.parametrize("mode", MODES)
def test_bytes_are_stored_in_base64(provider, mode):
    talk = Talk(provider, mode)
    part = CODEC.user([{"type": "input_audio", "input_audio": {"data": b"RIFF\xff", "format": "wav"}}])
    talk.add(part.body)
    talk.answer({"content": "hi"})
    assert talk.sent[0]["content"][0]["input_audio"] == {"data": "UklGRv8=", "format": "wav"}


class City(BaseModel):
    name: str


def test_parsed_answers_go_back_without_what_was_parsed(provider):
    talk = Talk(provider, "unary")
    talk.add({"role": "user", "content": "Which city?"})
    tool = openai.pydantic_function_tool(City)
    provider.script(completion({"content": '{"name":"Oslo"}'}, "stop"))
    parsed_call = {"id": "c1", "type": "function", "function": {"name": "City", "arguments": '{"name":"Oslo"}'}}
    provider.script(completion({"tool_calls": [parsed_call]}, "tool_calls"))
    with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="x", max_retries=0) as client:
        request = CODEC.request(talk.entries)
        first = client.chat.completions.parse(model="m", response_format=City, **request)
        second = client.chat.completions.parse(model="m", tools=[tool], **request)
    assert first.choices[0].message.parsed == City(name="Oslo")
    assert second.choices[0].message.tool_calls[0].function.parsed_arguments == City(name="Oslo")
    talk.add(first)
    [found] = talk.add(second.choices[0].message).calls
    talk.add(CODEC.result(found, "cold").body)
    talk.answer({"content": "hi"})
    assert talk.sent[1:3] == [
        {"role": "assistant", "content": '{"name":"Oslo"}'},
        {"role": "assistant", "content": None, "tool_calls": [parsed_call]},
    ]


def test_a_chunk_is_no_answer(provider):
    provider.script(Answer(events=chunks({"content": "hello"}, "stop")))
    with (
        openai.OpenAI(base_url=f"{provider.url}/v1", api_key="x", max_retries=0) as client,
        client.chat.completions.create(model="m", messages=[], stream=True) as stream,
    ):
        with pytest.raises(InvalidMessage, match="piece of a stream"):
            CODEC.encode(next(stream), "m")
        with pytest.raises(InvalidMessage, match="Stream"):
            CODEC.encode(stream, "m")
