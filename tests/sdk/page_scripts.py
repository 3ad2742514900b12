"""What the provider answers to the program of each how-to page, and what that program prints."""

from dataclasses import dataclass, field
from typing import Any

from tests.sdk.fake_provider import Answer


@dataclass(frozen=True)
class PageScript:
    """One page's.

    Attributes:
        prints: All that its program writes.
        answers: What the provider says, in order.
        environment: Variables of its SDK; `{url}` stands for the provider's address.
    """

    prints: str
    answers: list[Any] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)


# --- Anthropic ------------------------------------------------------------------------------------------------------


def _message(*content: Any, stop: str = "end_turn", output: int = 5) -> dict[str, Any]:
    usage = {"input_tokens": 20, "output_tokens": output}
    facts = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-5"}
    return {**facts, "content": list(content), "stop_reason": stop, "stop_sequence": None, "usage": usage}


def _text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def _delta(said: str) -> tuple[str, dict[str, Any]]:
    delta = {"type": "text_delta", "text": said}
    return "content_block_delta", {"type": "content_block_delta", "index": 0, "delta": delta}


_COUNT = {"type": "tool_use", "id": "toolu_1", "name": "count_words", "input": {"text": "Seeds, nuts and fruit."}}
_ENDS = {"delta": {"stop_reason": "end_turn", "stop_sequence": None}, "usage": {"output_tokens": 5}}
_STREAM = [
    ("message_start", {"type": "message_start", "message": {**_message(), "stop_reason": None}}),
    ("content_block_start", {"type": "content_block_start", "index": 0, "content_block": _text("")}),
    _delta("Water, "),
    _delta("and fresh."),
    ("content_block_stop", {"type": "content_block_stop", "index": 0}),
    ("message_delta", {"type": "message_delta", **_ENDS}),
    ("message_stop", {"type": "message_stop"}),
]

ANTHROPIC = PageScript(
    prints="Seeds, nuts and fruit.\ncompleted end_turn 2 26\nFour words.\nWater, and fresh. [end_turn]\nWater.\n",
    answers=[
        _message(_text("Seeds, nuts and fruit."), output=8),
        _message(_COUNT, stop="tool_use", output=20),
        _message(_text("Four words."), output=6),
        Answer(events=_STREAM),
        _message(_text("Water.")),
    ],
    environment={"ANTHROPIC_BASE_URL": "{url}", "ANTHROPIC_API_KEY": "none"},
)

# --- Gemini ---------------------------------------------------------------------------------------------------------


def _gemini(*parts: Any, **usage: int) -> dict[str, Any]:
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": "STOP", "index": 0}
    counted = {"promptTokenCount": 20, "candidatesTokenCount": 5, **usage}
    return {"candidates": [candidate], "usageMetadata": counted, "modelVersion": "gemini-3-pro"}


def _weather_in(city: str, **signed: str) -> dict[str, Any]:
    return {"functionCall": {"name": "weather", "args": {"city": city}}, **signed}


GOOGLE_GENAI = PageScript(
    prints="""Paris.
system Be brief.
user What is the capital of France?
model Paris.
user And of Italy?
model Rome.
completed 2 17
Clear in both, 21 degrees.
To Rome.
Rather. / written to a cache: 4096
Half a day. / written to a cache: 0
completed You are welcome.
""",
    answers=[
        _gemini({"text": "Paris."}),
        _gemini({"text": "Rome."}),
        _gemini(_weather_in("Paris", thoughtSignature="c2lnbmVk"), _weather_in("Rome"), thoughtsTokenCount=7),
        _gemini({"text": "Clear in both, 21 degrees."}),
        Answer(events=[(None, _gemini({"text": "To "})), (None, _gemini({"text": "Rome."}))]),
        {"name": "cachedContents/1", "usageMetadata": {"totalTokenCount": 4096}},
        _gemini({"text": "Rather."}),
        _gemini({"text": "Half a day."}),
        _gemini({"text": "You are welcome."}),
    ],
    environment={"GOOGLE_GEMINI_BASE_URL": "{url}", "GOOGLE_API_KEY": "none"},
)

LANGCHAIN = PageScript(
    prints="""SystemMessage Be brief.
HumanMessage What is the capital of France?
AIMessage Paris.
completed 2 Clear, 21 degrees.
content='{"city":"Paris","sky":"clear","celsius":21}' name='weather' tool_call_id='call_1'
To the Jardin des Plantes.
[{'type': 'text', 'text': 'To the Jardin des Plantes.'}, {'cachePoint': {'type': 'default'}}]
completed You are welcome.
"""
)

# --- OpenAI ---------------------------------------------------------------------------------------------------------

_OPENAI = {"OPENAI_BASE_URL": "{url}/v1", "OPENAI_API_KEY": "none"}
_SEEDS = "Seeds, nuts and fruit."
_CHAT_USAGE = {"prompt_tokens": 20, "completion_tokens": 9, "total_tokens": 29}


def _chat(message: dict[str, Any], stop: str = "stop") -> dict[str, Any]:
    whole = {"role": "assistant", "content": None, "refusal": None, **message}
    choice = {"index": 0, "finish_reason": stop, "message": whole}
    facts = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "gpt-5.2"}
    return {**facts, "choices": [choice], "usage": _CHAT_USAGE}


def _chat_stream(*texts: str) -> Answer:
    frame = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-5.2"}
    told: list[tuple[Any, Any]] = [({"role": "assistant", "content": text}, None) for text in texts]
    chunks = [
        {**frame, "choices": [{"index": 0, "delta": delta, "finish_reason": stop}]}
        for delta, stop in [*told, ({}, "stop")]
    ]
    chunks.append({**frame, "choices": [], "usage": _CHAT_USAGE})
    return Answer(events=[*((None, chunk) for chunk in chunks), (None, "[DONE]")])


def _chat_call(name: str, arguments: str) -> dict[str, Any]:
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return _chat({"tool_calls": [call]}, "tool_calls")


OPENAI_CHAT = PageScript(
    prints=f"{_SEEDS}\ncompleted stop 2 18\nFour words.\nWater, mostly. [stop, 20 tokens read]\nWater.\n",
    answers=[
        _chat({"content": _SEEDS}),
        _chat_call("count_words", f'{{"text": "{_SEEDS}"}}'),
        _chat({"content": "Four words."}),
        _chat_stream("Water, ", "mostly."),
        _chat({"content": "Water."}),
    ],
    environment=_OPENAI,
)

_REASONING = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAAAB="}


def _item(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}


def _call(name: str, arguments: str) -> dict[str, Any]:
    facts = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "status": "completed"}
    return {**facts, "name": name, "arguments": arguments}


def _response(*output: Any) -> dict[str, Any]:
    usage = {
        "input_tokens": 20,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 6},
        "total_tokens": 29,
    }
    facts = {"id": "resp_1", "object": "response", "created_at": 1, "model": "gpt-5.2", "status": "completed"}
    asked = {"instructions": None, "parallel_tool_calls": True, "temperature": 1.0, "tool_choice": "auto", "top_p": 1.0}
    nothing = {"error": None, "incomplete_details": None, "metadata": {}, "tools": []}
    return {**facts, **asked, **nothing, "output": list(output), "usage": usage}


def _response_stream(*texts: str) -> Answer:
    whole = _response(_item("".join(texts)))
    item = {**whole["output"][0], "status": "in_progress", "content": []}
    at = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    part = {"type": "output_text", "text": "", "annotations": []}
    told: list[tuple[str, dict[str, Any]]] = [
        ("response.created", {"response": {**whole, "status": "in_progress", "output": [], "usage": None}}),
        ("response.output_item.added", {"output_index": 0, "item": item}),
        ("response.content_part.added", {**at, "part": part}),
        *(("response.output_text.delta", {**at, "delta": text, "logprobs": []}) for text in texts),
        ("response.output_text.done", {**at, "text": "".join(texts), "logprobs": []}),
        ("response.output_item.done", {"output_index": 0, "item": whole["output"][0]}),
        ("response.completed", {"response": whole}),
    ]
    numbered = [(name, {"type": name, "sequence_number": at, **data}) for at, (name, data) in enumerate(told)]
    return Answer(events=list(numbered))


OPENAI_RESPONSES = PageScript(
    prints=f"{_SEEDS}\n['reasoning', 'message']\ncompleted completed 2 12\nFour words.\n"
    "Water, mostly. [completed, 20 tokens read]\nWater.\n",
    answers=[
        _response(_REASONING, _item(_SEEDS)),
        _response(_REASONING, _call("count_words", f'{{"text": "{_SEEDS}"}}')),
        _response(_item("Four words.")),
        _response_stream("Water, ", "mostly."),
        _response(_item("Water.")),
    ],
    environment=_OPENAI,
)

OPENAI_AGENTS = PageScript(
    prints="Sunny.\nIn Oslo.\n['message', 'function_call', 'function_call_output', 'message', 'message', 'message']\n"
    "Rainy.\n6 6\nYou are welcome.\n",
    answers=[
        _response(_call("weather", '{"city": "Oslo"}')),
        _response(_item("Sunny.")),
        _response(_item("In Oslo.")),
        _response(_item("Rainy.")),
        _response(_item("You are welcome.")),
    ],
    environment=_OPENAI,
)

README_AGENT = PageScript(
    prints="completed It is in Rotterdam.\n",
    answers=[
        _message(
            {"type": "tool_use", "id": "toolu_1", "name": "track_parcel", "input": {"number": 42}}, stop="tool_use"
        ),
        _message(_text("It is in Rotterdam.")),
    ],
    environment=ANTHROPIC.environment,
)

SESSIONS = PageScript(
    prints="""[{'role': 'user', 'content': 'Where is my parcel?'}]
completed 1 It is in Rotterdam.
"""
)

PAGES = {
    "docs/how-to/use-with-anthropic.md": ANTHROPIC,
    "docs/how-to/use-with-google-genai.md": GOOGLE_GENAI,
    "docs/how-to/use-with-langchain.md": LANGCHAIN,
    "docs/how-to/use-with-openai-agents.md": OPENAI_AGENTS,
    "docs/how-to/use-with-openai-chat.md": OPENAI_CHAT,
    "docs/how-to/use-with-openai-responses.md": OPENAI_RESPONSES,
    "docs/how-to/run-agent-turns-in-celery.md": PageScript(prints=""),
    "docs/reference/sessions.md": SESSIONS,
}
