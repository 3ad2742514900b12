"""Responses through OpenAI's own SDK: its items are stored as JSON, and go back as if they never had been."""

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

CODEC = codec_for("openai-responses")
PLAIN = ["unary", "streamed", "async unary", "async streamed"]
AT_ITEMS_IT_DOES_NOT_KNOW = "ignore:Pydantic serializer warnings"
HELPERS = [  # the SDK's stream helper takes nothing but an answer that was completed, and warns
    pytest.param(mode, marks=pytest.mark.filterwarnings(AT_ITEMS_IT_DOES_NOT_KNOW))
    for mode in ("helper", "async helper")
]
TOOLS = [ToolDefinition("weather", "Tell the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})]
USAGE = {
    "input_tokens": 20,
    "input_tokens_details": {"cached_tokens": 8, "cache_write_tokens": 4},
    "output_tokens": 9,
    "output_tokens_details": {"reasoning_tokens": 6},
    "total_tokens": 29,
}
IMAGE = {"type": "input_image", "detail": "low", "image_url": "data:image/png;base64,iVBORw0KGgo="}
FILE = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERi0="}
REASONING = {
    "type": "reasoning",
    "id": "rs_1",
    "summary": [{"type": "summary_text", "text": "hm"}],
    "encrypted_content": "gAAAAAB+/8=",
    "content": None,
}
CUSTOM = {
    "type": "custom_tool_call",
    "id": "ctc_1",
    "call_id": "call_2",
    "name": "sql",
    "input": "SELECT 'é' -- 😀",
    "async": True,
}
SEARCH = {
    "type": "web_search_call",
    "id": "ws_1",
    "status": "completed",
    "action": {"type": "search", "query": "Oslo", "sources": None},
}
HOLOGRAM = {
    "type": "hologram",
    "id": "holo_1",
    "beam": {"n": None, "x": 1.0, "big": 10000000000000000000001},
    "content": [{"type": "light", "text": "?"}],
}


class Talk:
    """A thread's entries, and the provider that answers to them."""

    def __init__(self, provider: FakeProvider, mode: str) -> None:
        self.provider, self.mode, self.entries = provider, mode, []

    def add(self, message):
        entry_id = f"m{len(self.entries)}"
        added = [
            Entry(f"{entry_id}.{place}", part.kind, part.body, CODEC.name, part.meta)
            for place, part in enumerate(CODEC.encode(message, entry_id))
        ]
        self.entries += added
        return CODEC.reply(added)

    def answer(self, *output, **facts):
        """The next answer of the model, kept; what was asked is the same before and after a way through JSON."""
        whole = response(*output, **facts)
        self.provider.script(whole if "unary" in self.mode else Answer(events=events(whole)))
        rebuilt = [Entry.from_record(entry.to_record()) for entry in self.entries]
        assert rebuilt == self.entries
        request = CODEC.request(rebuilt, tools=TOOLS)
        assert request == CODEC.request(self.entries, tools=TOOLS)
        reply = self.add(ask(self.provider, self.mode, request))
        assert self.sent == json.loads(json.dumps(request["input"]))
        return reply

    @property
    def sent(self):
        return self.provider.bodies[-1]["input"]


@pytest.fixture(params=[*PLAIN, *HELPERS])
def talk(provider, request):
    return Talk(provider, request.param)


def ask(provider, mode, request):
    made = {"base_url": f"{provider.url}/v1", "api_key": "x", "max_retries": 0}
    asked = {"model": "m", "store": False, "include": ["reasoning.encrypted_content"], **request}
    if mode.startswith("async"):
        return asyncio.run(ask_async(made, mode, asked))
    with openai.OpenAI(**made) as client:
        if "unary" in mode:
            return client.responses.create(**asked)
        if "helper" in mode:
            with client.responses.stream(**asked) as stream:
                return stream.get_final_response()
        with client.responses.create(**asked, stream=True) as stream:
            return list(stream)[-1].response


async def ask_async(made, mode, asked):
    async with openai.AsyncOpenAI(**made) as client:
        if "unary" in mode:
            return await client.responses.create(**asked)
        if "helper" in mode:
            async with client.responses.stream(**asked) as stream:
                return await stream.get_final_response()
        async with await client.responses.create(**asked, stream=True) as stream:
            return [event async for event in stream][-1].response


def response(*output, status="completed", reason=None):
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "model": "gpt-x",
        "status": status,
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "instructions": None,
        "metadata": {},
        "output": list(output),
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": USAGE,
    }


def events(whole):
    """The same answer as a provider streams it: each item when it begins and when it is done, then all of it."""
    told = [("response.created", {"response": {**whole, "status": "in_progress", "output": [], "usage": None}})]
    for index, item in enumerate(whole["output"]):
        told += [
            ("response.output_item.added", {"output_index": index, "item": item}),
            ("response.output_item.done", {"output_index": index, "item": item}),
        ]
    told.append((f"response.{whole['status']}", {"response": whole}))
    return [(name, {"type": name, "sequence_number": at, **data}) for at, (name, data) in enumerate(told)]


def said(*parts):
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": list(parts)}


def text(value):
    return {"type": "output_text", "text": value, "annotations": [], "logprobs": []}


def call(call_id, arguments, **more):
    told = {
        "type": "function_call",
        "id": f"fc_{call_id}",
        "call_id": call_id,
        "name": "weather",
        "status": "completed",
    }
    return {**told, "arguments": arguments, **more}


def output(call_id, value):
    return {"type": "function_call_output", "call_id": call_id, "output": value}


def user(content):
    return {"role": "user", "content": content}


def test_a_conversation_goes_back_as_it_was_said(talk):
    talk.add({"role": "system", "content": "Be brief."})
    talk.add(user([{"type": "input_text", "text": "What is this?"}, IMAGE, FILE]))
    spaced = '{ "city": null, "exact": 10000000000000000000001 }'
    calls = [call("call_1", spaced), call("call_3", '{"city":"Łódź"}')]
    reply = talk.answer(REASONING, *calls)
    assert [(found.id, found.args, found.problem) for found in reply.calls] == [
        ("call_1", {"city": None, "exact": 10**22 + 1}, ""),
        ("call_3", {"city": "Łódź"}, ""),
    ]
    for found in reply.calls:
        talk.add(CODEC.result(found, {"sky": "blue"}).body)
    reply = talk.answer(SEARCH, HOLOGRAM, {**REASONING, "id": "rs_2"}, said(text("Blue — "), text("😀")))
    assert (reply.text, reply.calls, reply.stop) == ("Blue — 😀", [], "completed")
    assert reply.usage == Usage(input=20, output=9, cache_read=8, cache_write=4, reasoning=6, requests=1)
    talk.add(user("Thanks."))
    talk.answer(said(text("Welcome.")))
    assert talk.provider.bodies[-1]["instructions"] == "Be brief."
    assert talk.sent == [
        user([{"type": "input_text", "text": "What is this?"}, IMAGE, FILE]),
        REASONING,
        *calls,
        output("call_1", '{"sky":"blue"}'),
        output("call_3", '{"sky":"blue"}'),
        SEARCH,
        HOLOGRAM,
        {**REASONING, "id": "rs_2"},
        said(text("Blue — "), text("😀")),
        user("Thanks."),
    ]
    assert talk.provider.bodies[-1]["tools"] == [
        {"type": "function", "name": "weather", "description": "Tell the weather.", "parameters": TOOLS[0].schema}
    ]


def test_the_facts_of_an_answer_stay_with_its_last_item(talk):
    talk.add(user("hi"))
    talk.answer(REASONING, said(text("hi")))
    assert talk.entries[-2].meta == {}
    assert talk.entries[-1].meta == {"model": "gpt-x", "stop": "completed", "usage": USAGE, "native_id": "resp_1"}


def test_a_refusal_goes_back(talk):
    talk.add(user("hi"))
    refusal = said({"type": "refusal", "refusal": "I will not."})
    assert talk.answer(refusal).stop == "refusal"
    talk.add(user("please"))
    talk.answer(said(text("no")))
    assert talk.sent[1] == refusal


def test_a_custom_tool_goes_back_with_its_own_kind_of_output(talk):
    talk.add(user("hi"))
    [sql] = talk.answer(CUSTOM).calls
    assert (sql.id, sql.name, sql.args) == ("call_2", "sql", CUSTOM["input"])
    talk.add(CODEC.result(sql, b"\xff\xfe").body)
    talk.answer(said(text("done")))
    assert talk.sent[1:] == [
        CUSTOM,
        {"type": "custom_tool_call_output", "call_id": "call_2", "output": "//4="},
    ]


def test_an_image_goes_back_as_a_result(talk):
    talk.add(user("hi"))
    [found] = talk.answer(call("call_1", "{}")).calls
    talk.add(CODEC.result(found, [IMAGE]).body)
    talk.answer(said(text("a sky")))
    assert talk.sent[-1] == output("call_1", [IMAGE])


def test_bytes_are_stored_in_base64(talk):
    talk.add(CODEC.user([{"type": "input_file", "filename": "a.bin", "file_data": b"\xff\xfe"}]).body)
    talk.answer(said(text("hi")))
    assert talk.sent[0]["content"][0]["file_data"] == "//4="


@pytest.mark.parametrize("mode", PLAIN)
def test_a_call_that_was_cut_short_is_not_run(provider, mode):
    talk = Talk(provider, mode)
    talk.add(user("hi"))
    cut = call("call_1", '{"city":"Os"}', status="incomplete")
    reply = talk.answer(cut, status="incomplete", reason="max_output_tokens")
    assert "cut short" in reply.calls[0].problem
    assert reply.stop == "max_output_tokens"


@pytest.mark.parametrize("mode", PLAIN)
def test_reasoning_of_an_answer_cut_short_is_kept_and_not_sent(provider, mode):
    talk = Talk(provider, mode)
    talk.add(user("hi"))
    talk.answer(REASONING, status="incomplete", reason="max_output_tokens")
    talk.add(user("go on"))
    talk.answer(said(text("hi")))
    assert [entry.body.get("type") for entry in talk.entries] == [None, "reasoning", None, "message"]
    assert talk.sent == [user("hi"), user("go on")]


@pytest.mark.parametrize("mode", PLAIN)
def test_an_answer_without_items_is_told(provider, mode):
    talk = Talk(provider, mode)
    talk.add(user("hi"))
    with pytest.raises(EmptyReply) as refused:
        talk.answer(status="incomplete", reason="content_filter")
    assert refused.value.stop == "content_filter"


class City(BaseModel):
    name: str


def test_parsed_answers_go_back_without_what_was_parsed(provider):
    talk = Talk(provider, "unary")
    talk.add(user("Which city?"))
    parsed_call = call("call_1", '{"name":"Oslo"}', name="City")
    provider.script(response(said(text('{"name":"Oslo"}')), parsed_call))
    tool = {"type": "function", **openai.pydantic_function_tool(City)["function"]}
    with openai.OpenAI(base_url=f"{provider.url}/v1", api_key="x", max_retries=0) as client:
        answer = client.responses.parse(model="m", text_format=City, tools=[tool], **CODEC.request(talk.entries))
    assert answer.output_parsed == City(name="Oslo")
    assert answer.output[1].parsed_arguments == {"name": "Oslo"}
    [found] = talk.add(answer).calls
    talk.add(CODEC.result(found, "cold").body)
    talk.answer(said(text("hi")))
    assert talk.sent[1:] == [said(text('{"name":"Oslo"}')), parsed_call, output("call_1", "cold")]
    for item in answer.output:
        assert CODEC.encode(item, "m")[0].body in talk.sent
        assert CODEC.encode(item.to_dict(), "m")[0].body != CODEC.encode(item, "m")[0].body


def test_a_piece_of_a_stream_is_no_answer(provider):
    provider.script(Answer(events=events(response(said(text("hello"))))))
    with (
        openai.OpenAI(base_url=f"{provider.url}/v1", api_key="x", max_retries=0) as client,
        client.responses.create(model="m", input="hi", stream=True) as stream,
    ):
        with pytest.raises(InvalidMessage, match="piece of a stream"):
            CODEC.encode(next(stream), "m")
        with pytest.raises(InvalidMessage, match="Stream"):
            CODEC.encode(stream, "m")
