"""Anthropic's own SDK between a thread and a provider: what it sends back is what it was given, to the byte."""

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import Any, get_args, get_type_hints

import anthropic
import pytest
from anthropic import types
from anthropic.types import beta
from pydantic import BaseModel
from typing_extensions import is_typeddict

from tests.sdk.fake_provider import Answer, FakeProvider
from threadkeep.errors import EmptyReply
from threadkeep.model import Entry
from threadkeep.session.codecs.anthropic import AnthropicCodec
from threadkeep.session.codecs.anthropic_cache import with_cache
from threadkeep.session.codecs.base import Reply, ToolDefinition, Usage
from threadkeep.strict_json import dump_json

CODEC = AnthropicCodec()
FIXED = {"model": "claude-sonnet-5", "max_tokens": 1024}
LOOK = ToolDefinition("look", "Look at a file.", {"type": "object", "properties": {"path": {"type": "string"}}})
MARK = {"type": "ephemeral", "ttl": "5m"}


class Thread:
    """Messages as records, read anew for each request."""

    def __init__(self, *messages: Any) -> None:
        self._records: list[bytes] = []
        for message in messages:
            self.append(message)

    def append(self, message: Any) -> list[Entry]:
        name = f"m{len(self._records)}"
        parts = CODEC.encode(message, name)
        self._records += [Entry(name, part.kind, part.body, CODEC.name, part.meta).to_record() for part in parts]
        return self.entries[-len(parts) :]

    @property
    def entries(self) -> list[Entry]:
        return [Entry.from_record(record) for record in self._records]

    def request(self, **options: Any) -> dict[str, Any]:
        return {**FIXED, **CODEC.request(self.entries, **{"cache": False, **options})}


# --- four ways to call ----------------------------------------------------------------------------------------------

Call = Callable[[FakeProvider, dict[str, Any]], Any]
LOGIN = {"api_key": "x", "max_retries": 0}


def unary(provider: FakeProvider, request: dict[str, Any]) -> Any:
    with anthropic.Anthropic(base_url=provider.url, **LOGIN) as client:
        return client.messages.create(**request)


def streaming(provider: FakeProvider, request: dict[str, Any]) -> Any:
    with (
        anthropic.Anthropic(base_url=provider.url, **LOGIN) as client,
        client.messages.stream(**request) as stream,
    ):
        return stream.get_final_message()


def async_unary(provider: FakeProvider, request: dict[str, Any]) -> Any:
    async def call() -> Any:
        async with anthropic.AsyncAnthropic(base_url=provider.url, **LOGIN) as client:
            return await client.messages.create(**request)

    return asyncio.run(call())


def async_streaming(provider: FakeProvider, request: dict[str, Any]) -> Any:
    async def call() -> Any:
        async with (
            anthropic.AsyncAnthropic(base_url=provider.url, **LOGIN) as client,
            client.messages.stream(**request) as stream,
        ):
            return await stream.get_final_message()

    return asyncio.run(call())


WAYS: list[Call] = [unary, streaming, async_unary, async_streaming]
every_way = pytest.mark.parametrize("call", WAYS, ids=lambda call: call.__name__)


def answer(*content: Any, stop: str | None = "end_turn", **more: Any) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-5",
        "content": list(content),
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 5},
        **more,
    }


def scripted(call: Call, message: dict[str, Any]) -> Answer:
    """The answer in the form that a way of calling asks for."""
    return Answer(events=list(events_of(message))) if "streaming" in call.__name__ else Answer(message)


def events_of(message: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    begun = {**message, "content": [], "stop_reason": None}
    yield "message_start", {"type": "message_start", "message": begun}
    for index, block in enumerate(message["content"]):
        start, deltas = deltas_of(block)
        yield "content_block_start", {"type": "content_block_start", "index": index, "content_block": start}
        for delta in deltas:
            yield "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": index}
    ended = {"stop_reason": message["stop_reason"], "stop_sequence": None}
    usage = {"output_tokens": message["usage"]["output_tokens"]}
    yield "message_delta", {"type": "message_delta", "delta": ended, "usage": usage}
    yield "message_stop", {"type": "message_stop"}


def deltas_of(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """How Anthropic streams a block: how it starts, and what is added."""
    if block["type"] == "text":
        return {**block, "text": ""}, [{"type": "text_delta", "text": half} for half in halves(block["text"])]
    if block["type"] == "thinking":
        said = [{"type": "thinking_delta", "thinking": half} for half in halves(block["thinking"])]
        signed = {"type": "signature_delta", "signature": block["signature"]}
        return {**block, "thinking": "", "signature": ""}, [*said, signed]
    if block["type"] in ("tool_use", "server_tool_use"):
        args = dump_json(block["input"]).decode()
        return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": half} for half in halves(args)]
    return block, []


def halves(text: str) -> tuple[str, str]:
    return text[: len(text) // 2], text[len(text) // 2 :]


# --- what goes back is what came ------------------------------------------------------------------------------------

HARD_INPUT = {"path": None, "deep": [{"at": 1.0, "id": 12345678901234567890, "none": None}], "": "ünï\u2028code 🦜"}
ANSWERS = {
    "text": [{"type": "text", "text": "Hello."}],
    "text with null citations": [{"citations": None, "type": "text", "text": "Hello."}],
    "thinking": [
        {"type": "thinking", "thinking": "Let me\nsee.", "signature": "EqQBCgIYAhIM+/=="},
        {"type": "redacted_thinking", "data": "EmwKAhgBEgy3va3pzix/LafPsn4="},
        {"type": "thinking", "thinking": "", "signature": "ErUB+/8="},
        {"type": "text", "text": "Here."},
    ],
    "tool call": [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": HARD_INPUT},
    ],
    "tool calls with a caller": [
        {
            "type": "tool_use",
            "id": "toolu_1",
            "name": "look",
            "input": {},
            "caller": {"type": "code_execution_20250825", "tool_id": "srvtoolu_1"},
        },
        {"type": "tool_use", "id": "toolu_2", "name": "look", "input": {"path": "b"}, "caller": {"type": "direct"}},
    ],
    "server tools": [
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "parrots"}},
        {
            "type": "web_search_tool_result",
            "tool_use_id": "srvtoolu_1",
            "content": [
                {
                    "type": "web_search_result",
                    "url": "https://example.org",
                    "title": "Parrots",
                    "encrypted_content": "EqgfCioIARgBIiQ3YTAw+/==",
                    "page_age": None,
                }
            ],
        },
        {"type": "text", "text": "Parrots are birds."},
    ],
    "code that ran": [
        {"type": "server_tool_use", "id": "s", "name": "bash_code_execution", "input": {"command": "ls"}},
        {
            "type": "bash_code_execution_tool_result",
            "tool_use_id": "s",
            "content": {
                "type": "bash_code_execution_result",
                "stdout": "",
                "stderr": "",
                "return_code": 0,
                "content": [{"type": "bash_code_execution_output", "file_id": "file_1"}],
            },
        },
    ],
    "kinds of tomorrow": [
        {"type": "hologram", "text": None, "beam": {"angle": 1.0, "id": 12345678901234567890, "of": [None]}},
        {"type": "text", "text": "Look!", "shade": "blue"},
    ],
}


@every_way
@pytest.mark.parametrize("content", ANSWERS.values(), ids=ANSWERS)
def test_an_answer_goes_back_to_the_byte(provider, call, content):
    provider.script(scripted(call, answer(*content)), scripted(call, answer({"type": "text", "text": "Bye."})))
    thread = Thread({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi."})
    thread.append(call(provider, thread.request()))
    thread.append({"role": "user", "content": "And now?"})
    call(provider, thread.request())
    first, second = provider.bodies
    assert first["system"] == second["system"] == "Be brief."
    assert first["messages"] == [{"role": "user", "content": "Hi."}]
    added = [{"role": "assistant", "content": content}, {"role": "user", "content": "And now?"}]
    assert canonical(second["messages"]) == canonical([*first["messages"], *added])
    assert inputs_of(second["messages"][1]["content"]) == inputs_of(content)


def canonical(value: Any) -> str:
    """Values to the byte. The SDK puts the fields of a block that it knows in an order of its own."""
    return json.dumps(value, sort_keys=True)


def inputs_of(blocks: list[dict[str, Any]]) -> list[bytes]:
    """Inputs of tools to the byte, the order of their keys included: it is part of what Anthropic caches."""
    return [dump_json(block["input"]) for block in blocks if "input" in block]


@every_way
def test_what_is_known_of_an_answer_is_kept_beside_it(provider, call):
    usage = {
        "input_tokens": 3,
        "cache_creation_input_tokens": 20,
        "cache_read_input_tokens": 100,
        "output_tokens": 9,
        "output_tokens_details": {"thinking_tokens": 4},
        "service_tier": "standard",
    }
    provider.script(scripted(call, answer({"type": "text", "text": "Hello."}, usage=usage)))
    (entry,) = Thread().append(call(provider, Thread({"role": "user", "content": "Hi."}).request()))
    assert entry.meta == {"model": "claude-sonnet-5", "stop": "end_turn", "usage": usage, "native_id": "msg_1"}
    told = Usage(input=123, output=9, cache_read=100, cache_write=20, reasoning=4, requests=1)
    assert CODEC.reply([entry]) == Reply(usage=told, text="Hello.", stop="end_turn")


@every_way
def test_tools_are_called_and_answered(provider, call):
    calls = [{"type": "tool_use", "id": f"toolu_{n}", "name": "look", "input": {"path": f"/{n}"}} for n in (1, 2)]
    provider.script(
        scripted(call, answer(*calls, stop="tool_use")), scripted(call, answer({"type": "text", "text": "a"}))
    )
    thread = Thread({"role": "user", "content": "Look."})
    reply = CODEC.reply(thread.append(call(provider, thread.request(tools=[LOOK]))))
    assert [(each.id, each.name, each.args, each.problem) for each in reply.calls] == [
        ("toolu_1", "look", {"path": "/1"}, ""),
        ("toolu_2", "look", {"path": "/2"}, ""),
    ]
    for each, said in zip(reply.calls, ({"lines": 3}, "no such file"), strict=True):
        thread.append(CODEC.result(each, said, error=said == "no such file").body)
    thread.append({"role": "user", "content": "Hurry."})
    call(provider, thread.request(tools=[LOOK]))
    assert provider.bodies[0]["tools"] == provider.bodies[1]["tools"]
    assert provider.bodies[1]["tools"][0]["input_schema"] == LOOK.schema
    assert provider.bodies[1]["messages"][2] == {
        "role": "user",
        "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": '{"lines":3}'},
            {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no such file", "is_error": True},
            {"type": "text", "text": "Hurry."},
        ],
    }


@pytest.mark.parametrize("call", [unary, async_unary], ids=lambda call: call.__name__)
def test_images_and_documents_of_bytes_are_sent_as_base64(provider, call):
    provider.script(answer({"type": "text", "text": "A parrot."}))
    kinds = {"image": "image/png", "document": "application/pdf"}
    content = [
        {"type": kind, "source": {"type": "base64", "media_type": media, "data": b"\xfb\xff\x00"}}
        for kind, media in kinds.items()
    ]
    call(provider, Thread({"role": "user", "content": content}).request())
    sent = provider.bodies[0]["messages"][0]["content"]
    assert [(block["type"], block["source"]["data"]) for block in sent] == [("image", "+/8A"), ("document", "+/8A")]


@every_way
def test_an_answer_in_a_message_of_ones_own_is_stored_alike(provider, call):
    content = ANSWERS["thinking"]
    provider.script(scripted(call, answer(*content)))
    message = call(provider, Thread({"role": "user", "content": "Hi."}).request())
    (own,) = Thread().append({"role": "assistant", "content": message.content})
    (whole,) = Thread().append(message)
    assert dump_json(own.body) == dump_json(whole.body)


def test_what_the_sdk_parsed_for_itself_is_not_stored(provider):
    class Bird(BaseModel):
        name: str

    spoken = {"type": "text", "text": '{"name":"Polly"}'}
    provider.script(answer(spoken))
    with anthropic.Anthropic(base_url=provider.url, **LOGIN) as client:
        message = client.messages.parse(**Thread({"role": "user", "content": "Hi."}).request(), output_format=Bird)
    assert message.parsed_output == Bird(name="Polly")
    (entry,) = Thread().append(message)
    assert entry.body == {"role": "assistant", "content": [spoken]}


# --- why it stopped -------------------------------------------------------------------------------------------------


@every_way
def test_a_refusal_is_kept_with_its_reason(provider, call):
    provider.script(scripted(call, answer({"type": "text", "text": "I can't."}, stop="refusal")))
    reply = CODEC.reply(Thread().append(call(provider, Thread({"role": "user", "content": "Hi."}).request())))
    assert (reply.stop, reply.text, reply.calls, reply.again) == ("refusal", "I can't.", [], False)


@every_way
def test_a_refusal_without_a_word_is_an_empty_reply(provider, call):
    provider.script(scripted(call, answer(stop="refusal")))
    message = call(provider, Thread({"role": "user", "content": "Hi."}).request())
    with pytest.raises(EmptyReply, match="refusal"):
        CODEC.encode(message, "m")


@every_way
def test_a_paused_answer_goes_back_and_is_continued(provider, call):
    begun, done = ANSWERS["server tools"][:2], ANSWERS["server tools"][2:]
    provider.script(
        scripted(call, answer(*begun, stop="pause_turn")),
        scripted(call, answer(*done)),
        scripted(call, answer({"type": "text", "text": "Bye."})),
    )
    thread = Thread({"role": "user", "content": "Hi."})
    assert CODEC.reply(thread.append(call(provider, thread.request()))).again
    assert not CODEC.reply(thread.append(call(provider, thread.request()))).again
    thread.append({"role": "user", "content": "Thanks."})
    call(provider, thread.request())
    assert provider.bodies[1]["messages"][1:] == [{"role": "assistant", "content": begun}]
    assert provider.bodies[2]["messages"][1] == {"role": "assistant", "content": begun + done}


@pytest.mark.parametrize("call", [streaming, async_streaming], ids=lambda call: call.__name__)
def test_a_tool_call_that_was_cut_looks_whole_and_must_not_be_run(provider, call):
    whole = {"type": "tool_use", "id": "toolu_1", "name": "write", "input": {"path": "/a", "text": "abcdef"}}
    events = list(events_of(answer(whole, stop="max_tokens")))
    cut = {"type": "input_json_delta", "partial_json": '{"path": "/a", "text": "abc'}
    kept = [event for event in events if event[0] != "content_block_delta"]
    kept.insert(2, ("content_block_delta", {"type": "content_block_delta", "index": 0, "delta": cut}))
    provider.script(Answer(events=kept))
    (wanted,) = CODEC.reply(Thread().append(call(provider, Thread({"role": "user", "content": "Hi."}).request()))).calls
    assert wanted.args == {"path": "/a"}
    assert "max_tokens" in wanted.problem


# --- errors, and the cache ------------------------------------------------------------------------------------------


@every_way
def test_an_error_of_the_server_comes_through_and_a_repeat_sends_the_same(provider, call):
    error = {"type": "error", "error": {"type": "invalid_request_error", "message": "messages: too long"}}
    provider.script(Answer(error, status=400), scripted(call, answer({"type": "text", "text": "Hello."})))
    thread = Thread({"role": "user", "content": "Hi."})
    with pytest.raises(anthropic.BadRequestError) as caught:
        call(provider, thread.request(cache="1h"))
    assert caught.value.status_code == 400
    assert caught.value.body == error
    call(provider, thread.request(cache="1h"))
    assert provider.bodies[0] == provider.bodies[1]


@every_way
def test_cache_markers_are_sent_and_never_pile_up(provider, call):
    provider.script(*[scripted(call, answer({"type": "text", "text": "Yes."})) for _ in range(3)])
    thread = Thread({"role": "system", "content": "Be brief."})
    for question in ("One?", "Two?", "Three?"):
        thread.append({"role": "user", "content": question})
        thread.append(call(provider, thread.request(cache=True)))
    for body in provider.bodies:
        assert body["system"] == [{"type": "text", "text": "Be brief.", "cache_control": MARK}]
        assert body["messages"][-1]["content"][-1]["cache_control"] == MARK
        assert str(body).count("cache_control") == 2
    assert b"cache_control" not in b"".join(entry.to_record() for entry in thread.entries)


@every_way
def test_the_automatic_cache_is_asked_for_at_the_top(provider, call):
    provider.script(scripted(call, answer({"type": "text", "text": "Yes."})))
    call(provider, Thread({"role": "user", "content": "Hi."}).request(cache="auto"))
    assert provider.bodies[0]["cache_control"] == {"type": "ephemeral"}
    assert provider.bodies[0]["messages"] == [{"role": "user", "content": "Hi."}]


def kinds_of(union: Any) -> dict[str, bool]:
    """Kinds of blocks that the SDK can send, and whether each takes a cache marker."""
    params = [get_type_hints(param) for param in get_args(union) if is_typeddict(param)]
    return {get_args(hints["type"])[0]: "cache_control" in hints for hints in params}


def is_marked(kind: str) -> bool:
    messages = [{"role": "user", "content": [{"type": kind, "text": "x"}]}]
    return with_cache({"messages": messages}) != {"messages": messages}


def test_only_kinds_that_take_a_marker_get_one():
    kinds = kinds_of(types.ContentBlockParam) | kinds_of(beta.BetaContentBlockParam)
    marked = {kind for kind in kinds if is_marked(kind)}
    assert marked <= {kind for kind, takes_one in kinds.items() if takes_one}
    assert marked >= {
        "text",
        "image",
        "document",
        "tool_use",
        "tool_result",
        "server_tool_use",
        "web_search_tool_result",
    }
