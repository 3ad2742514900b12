"""The codec of Gemini with Google's own SDK: what it gives is kept, what is kept it sends, over a real connection."""

import asyncio
import base64
import json
from types import SimpleNamespace

import pytest
from google import genai
from google.genai import types

from tests.sdk.fake_provider import Answer
from threadkeep.errors import CacheWithoutName, EmptyReply
from threadkeep.model import Entry
from threadkeep.session.codecs.base import ToolDefinition, Usage
from threadkeep.session.codecs.google_cache import ContextCache
from threadkeep.session.codecs.google_genai import GoogleGenAICodec

CODEC = GoogleGenAICodec()
MODEL = "gemini-3-pro"
SIGNATURE = b"\xfb\xff\xfe\x00 signed"
IMAGE = b"\x89PNG\xff\xfb"
PARIS = {"city": "Paris", "unit": None, "exact_id": 12345678901234567890, "share": 1.0}
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS = [ToolDefinition("weather", "Tells the weather.", SCHEMA)]
USAGE = {"promptTokenCount": 10, "candidatesTokenCount": 4, "thoughtsTokenCount": 6, "totalTokenCount": 20}


@pytest.fixture
def client(provider):
    options = types.HttpOptions(base_url=provider.url, retry_options=types.HttpRetryOptions(attempts=1))
    with genai.Client(api_key="x", http_options=options) as client:
        yield client


def b64(data):
    return base64.b64encode(data).decode()


def answer(*parts, stop="STOP", **more):
    candidate = {"content": {"role": "model", "parts": list(parts)}, "finishReason": stop, "index": 0}
    return {
        "candidates": [candidate],
        "usageMetadata": USAGE,
        "modelVersion": MODEL,
        "responseId": "r1",
        **more,
    }


def stream(*chunks):
    return Answer(events=[(None, chunk) for chunk in chunks])


def kept(parts, first="m"):
    """Parts as entries that went through a store."""
    entries = [Entry(f"{first}{at}", part.kind, part.body, CODEC.name, part.meta) for at, part in enumerate(parts)]
    return [Entry.from_record(entry.to_record()) for entry in entries]


def asked(text="Hi"):
    return kept([CODEC.system("Be brief."), CODEC.user(text)], "q")


def wire(value):
    """A body as a server reads it: both alphabets of base64 are the same bytes, both spellings the same field."""
    if isinstance(value, dict):
        return {
            "".join([name.split("_")[0], *(word.title() for word in name.split("_")[1:])]): (
                base64.urlsafe_b64decode(inner.replace("+", "-").replace("/", "_"))
                if name in ("data", "thoughtSignature", "thought_signature")
                else wire(inner)
            )
            for name, inner in value.items()
        }
    return [wire(inner) for inner in value] if isinstance(value, list) else value


THOUGHT = {"text": "Which city?", "thought": True, "thoughtSignature": b64(SIGNATURE)}
FIRST = {"functionCall": {"id": "c1", "name": "weather", "args": PARIS}, "thoughtSignature": b64(SIGNATURE)}
SECOND = {"functionCall": {"id": "c2", "name": "weather", "args": {"city": "Rome"}}}


def test_an_answer_goes_back_as_it_came(client, provider):
    parts = [THOUGHT, {"text": "I look."}, FIRST, SECOND, {"executableCode": {"language": "PYTHON", "code": "1"}}]
    provider.script(answer(*parts), answer({"text": "Fine."}))
    request = CODEC.request(asked(), tools=TOOLS)
    response = client.models.generate_content(model=MODEL, **request)
    entries = [*asked(), *kept(CODEC.encode(response, "a"))]
    client.models.generate_content(model=MODEL, **CODEC.request(entries, tools=TOOLS))
    assert wire(provider.bodies[1]["contents"][1]) == wire({"role": "model", "parts": parts})
    assert provider.bodies[1]["systemInstruction"]["parts"] == [{"text": "Be brief."}]
    [declared] = provider.bodies[1]["tools"][0]["functionDeclarations"]
    assert (declared["name"], declared["parameters_json_schema"]) == ("weather", SCHEMA)


def test_an_answer_tells_its_calls_its_tokens_and_its_reason(client, provider):
    provider.script(answer(THOUGHT, {"text": "I look."}, FIRST))
    response = client.models.generate_content(model=MODEL, **CODEC.request(asked(), tools=TOOLS))
    [part] = CODEC.encode(response, "a")
    reply = CODEC.reply(kept([part]))
    assert [(each.id, each.name, each.args) for each in reply.calls] == [("c1", "weather", PARIS)]
    assert reply.usage == Usage(input=10, output=10, reasoning=6, requests=1)
    assert (reply.text, reply.stop) == ("I look.", "STOP")
    assert (part.meta["model"], part.meta["native_id"], part.meta["usage"]) == (MODEL, "r1", USAGE)


def test_a_stream_is_kept_as_one_answer(client, provider):
    signed = {"text": "", "thoughtSignature": b64(SIGNATURE)}
    provider.script(
        stream(
            answer(THOUGHT, stop=None),
            answer({"text": "I "}, stop=None),
            {
                "candidates": [
                    {"content": {"role": "model", "parts": [{"text": "look."}, signed]}, "finishReason": "STOP"}
                ]
            },
        ),
        answer({"text": "Fine."}),
    )
    chunks = list(client.models.generate_content_stream(model=MODEL, **CODEC.request(asked())))
    entries = kept(CODEC.encode(chunks, "a"))
    client.models.generate_content(model=MODEL, **CODEC.request([*asked(), *entries]))
    parts = [THOUGHT, {"text": "I "}, {"text": "look."}, signed]
    assert wire(provider.bodies[1]["contents"][1]["parts"]) == wire(parts)
    assert CODEC.reply(entries).text == "I look."
    assert entries[0].meta["usage"] == USAGE


def test_asyncio_answers_and_streams_are_kept_the_same(client, provider):
    provider.script(answer({"text": "one"}), stream(answer({"text": "t"}, stop=None), answer({"text": "wo"})))

    async def play():
        async with client.aio as aclient:
            one = await aclient.models.generate_content(model=MODEL, **CODEC.request(asked()))
            stream = await aclient.models.generate_content_stream(model=MODEL, **CODEC.request(asked()))
            return [CODEC.reply(kept(CODEC.encode(each, "a"))) for each in (one, [chunk async for chunk in stream])]

    assert [reply.text for reply in asyncio.run(play())] == ["one", "two"]


def test_parallel_calls_are_answered_in_one_turn_in_call_order(client, provider):
    unnamed = [{"functionCall": {"name": "weather", "args": {"city": city}}} for city in ("Oslo", "Lima")]
    provider.script(answer(FIRST, *unnamed), answer({"text": "Fine."}))
    response = client.models.generate_content(model=MODEL, **CODEC.request(asked(), tools=TOOLS))
    entries = [*asked(), *kept(CODEC.encode(response, "a"))]
    calls = CODEC.calls(entries[-1])
    results = kept([CODEC.result(each, {"city": each.args["city"]}) for each in calls], "t")
    client.models.generate_content(model=MODEL, **CODEC.request([*entries, *results], tools=TOOLS))
    model, tools = provider.bodies[1]["contents"][1:]
    sent = [(part["functionCall"]["id"], part["functionCall"]["args"]["city"]) for part in model["parts"]]
    back = [(part["functionResponse"]["id"], part["functionResponse"]["response"]["city"]) for part in tools["parts"]]
    assert sent == back
    assert [city for _, city in sent] == ["Paris", "Oslo", "Lima"]
    assert tools["role"] == "user"


def test_images_documents_and_files_reach_the_model_byte_for_byte(client, provider):
    provider.script(answer({"text": "Seen."}))
    said = [
        "Look",
        types.Part.from_bytes(data=IMAGE, mime_type="image/png"),
        {"inline_data": {"data": IMAGE, "mime_type": "application/pdf"}},
        types.File(uri="https://files/1", mime_type="text/csv", name="files/1"),
    ]
    client.models.generate_content(model=MODEL, **CODEC.request(kept([CODEC.user(said)])))
    assert wire(provider.bodies[0]["contents"][0]["parts"]) == [
        {"text": "Look"},
        {"inlineData": {"data": IMAGE, "mimeType": "image/png"}},
        {"inlineData": {"data": IMAGE, "mimeType": "application/pdf"}},
        {"fileData": {"fileUri": "https://files/1", "mimeType": "text/csv"}},
    ]


def test_media_of_a_tool_reach_the_model_inside_its_response(client, provider):
    provider.script(answer({"text": "Seen."}))
    [entry] = kept(CODEC.encode(answer(FIRST), "a"))
    [call] = CODEC.calls(entry)
    result = CODEC.result(
        call, [types.Part.from_text(text="A map"), types.Part.from_bytes(data=IMAGE, mime_type="a/b")]
    )
    client.models.generate_content(model=MODEL, **CODEC.request([*asked(), entry, *kept([result])]))
    [part] = wire(provider.bodies[0]["contents"][2]["parts"])
    assert part["functionResponse"] == {
        "id": "c1",
        "name": "weather",
        "response": {"result": "A map"},
        "parts": [{"inlineData": {"data": IMAGE, "mimeType": "a/b"}}],
    }


def test_a_single_part_that_a_tool_gives_travels_inside_its_response():
    [entry] = kept(CODEC.encode(answer(FIRST), "a"))
    result = CODEC.result(CODEC.calls(entry)[0], types.Part.from_bytes(data=IMAGE, mime_type="a/b"))
    [part] = result.body["parts"]
    assert wire(part["functionResponse"]["parts"]) == [{"inlineData": {"data": IMAGE, "mimeType": "a/b"}}]


@pytest.mark.parametrize(
    ("content", "error", "response"),
    [
        (None, False, {"result": None}),
        ({"found": None}, False, {"found": None}),
        ([1, None], False, {"result": [1, None]}),
        ("no such city", True, {"error": "no such city"}),
    ],
)
def test_any_result_is_sent_as_an_object_with_its_nulls(client, provider, content, error, response):
    provider.script(answer({"text": "Fine."}))
    [entry] = kept(CODEC.encode(answer(FIRST), "a"))
    result = CODEC.result(CODEC.calls(entry)[0], content, error=error)
    client.models.generate_content(model=MODEL, **CODEC.request([*asked(), entry, *kept([result])]))
    [part] = provider.bodies[0]["contents"][2]["parts"]
    assert part["functionResponse"] == {"id": "c1", "name": "weather", "response": response}


def test_a_part_of_a_kind_that_the_sdk_does_not_know_is_flagged_and_not_sent_back_empty(client, provider):
    provider.script(answer({"kindOfTomorrow": {"a": 1}}, {"text": "x"}), answer({"text": "y"}))
    response = client.models.generate_content(model=MODEL, **CODEC.request(asked()))
    [entry] = kept(CODEC.encode(response, "a"))
    assert entry.meta["lossy"] is True
    client.models.generate_content(model=MODEL, **CODEC.request([*asked(), entry]))
    assert provider.bodies[1]["contents"][1]["parts"] == [{"text": "x"}]


def test_the_untyped_answer_of_the_sdk_keeps_parts_of_any_kind(client, provider):
    parts = [{"kindOfTomorrow": {"a": None}}, {"text": "x"}]
    provider.script(answer(*parts))
    request = CODEC.request(asked(), config={"should_return_http_response": True})
    response = client.models.generate_content(model=MODEL, **request)
    [part] = CODEC.encode(json.loads(response.sdk_http_response.body), "a")
    assert part.body["parts"] == parts
    assert "lossy" not in part.meta


BLOCKED = {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 3}}


def test_a_blocked_prompt_is_an_empty_reply(client, provider):
    provider.script(BLOCKED, stream(BLOCKED), {"candidates": [{"finishReason": "SAFETY"}]})
    said = CODEC.request(asked())
    answers = [
        client.models.generate_content(model=MODEL, **said),
        list(client.models.generate_content_stream(model=MODEL, **said)),
        client.models.generate_content(model=MODEL, **said),
    ]
    stops = []
    for each in answers:
        with pytest.raises(EmptyReply) as caught:
            CODEC.encode(each, "a")
        stops.append(caught.value.stop)
    assert stops == ["PROHIBITED_CONTENT", "PROHIBITED_CONTENT", "SAFETY"]


def test_a_content_of_the_sdk_and_the_history_of_its_chats_are_kept(client, provider):
    provider.script(answer({"text": "Hello."}))
    chat = client.chats.create(model=MODEL)
    chat.send_message("Hi")
    parts = [part for content in chat.get_history() for part in CODEC.encode(content, "m")]
    assert [(part.kind, part.body["parts"]) for part in parts] == [
        ("user", [{"text": "Hi"}]),
        ("assistant", [{"text": "Hello."}]),
    ]


def test_a_content_whose_fields_the_app_replaced_is_kept_without_a_warning():
    content = types.Content(role="user")
    content.parts = (types.Part(text="Hi"),)
    assert CODEC.encode(content, "m")[0].body == {"role": "user", "parts": [{"text": "Hi"}]}


def test_the_apps_config_goes_along_as_a_dict_or_as_an_object(client, provider):
    provider.script(answer({"text": "x"}), answer({"text": "x"}))
    for config in ({"temperature": 0.5}, types.GenerateContentConfig(temperature=0.5, seed=None)):
        client.models.generate_content(model=MODEL, **CODEC.request(asked(), tools=TOOLS, config=config))
    assert provider.bodies[0] == provider.bodies[1]
    assert provider.bodies[0]["generationConfig"] == {"temperature": 0.5}
    assert provider.bodies[0]["tools"]


def test_a_config_object_with_tools_is_refused():
    with pytest.raises(ValueError, match="config carries tools"):
        CODEC.request(asked(), config=types.GenerateContentConfig(tools=[types.Tool(google_search={})]))


def test_a_thread_that_was_stored_sends_the_same_request_as_before(client, provider):
    provider.script(answer({"text": "x"}), answer({"text": "x"}))
    parts = [
        CODEC.system("Be brief."),
        CODEC.user(["Look", types.Part.from_bytes(data=IMAGE, mime_type="image/png")]),
        *CODEC.encode(types.Content.model_validate({"role": "model", "parts": [THOUGHT, FIRST, SECOND]}), "a"),
    ]
    [first, second] = CODEC.calls(Entry("a", "assistant", parts[2].body))
    parts += [CODEC.result(first, {"sky": None}), CODEC.result(second, "rain", error=True), CODEC.user("So?")]
    fresh = [Entry(f"m{at}", part.kind, part.body, CODEC.name, part.meta) for at, part in enumerate(parts)]
    for entries in (fresh, kept(parts)):
        client.models.generate_content(model=MODEL, **CODEC.request(entries, tools=TOOLS))
    assert json.dumps(provider.bodies[0]) == json.dumps(provider.bodies[1])
    assert wire(provider.bodies[0]["contents"][1]["parts"]) == wire([THOUGHT, FIRST, SECOND])


# --- context caches -------------------------------------------------------------------------------------------------

CACHE = {"name": "cachedContents/1", "model": f"models/{MODEL}", "usageMetadata": {"totalTokenCount": 4096}}


def long_thread():
    parts = [CODEC.system("Be brief."), CODEC.user("A long document"), *CODEC.encode(answer({"text": "Read."}), "a")]
    return kept([*parts, CODEC.user("What does it say?")])


def test_a_context_cache_is_made_once_and_named_from_then_on(client, provider):
    provider.script(CACHE, answer({"text": "x"}), answer({"text": "x"}))
    session = SimpleNamespace(state={})
    cache = ContextCache(client, model=MODEL, split_index=2)
    written = []
    for _ in range(2):
        request = CODEC.request(long_thread(), tools=TOOLS, config={"temperature": 0.5})
        client.models.generate_content(model=MODEL, **cache.request(session, request))
        written.append(cache.last_written)
    assert [sent.path for sent in provider.requests] == [
        "/v1/cachedContents",
        f"/v1/models/{MODEL}:generateContent",
        f"/v1/models/{MODEL}:generateContent",
    ]
    made, first, second = provider.bodies
    assert [content["parts"][0]["text"] for content in made["contents"]] == ["A long document", "Read."]
    assert (made["model"], made["ttl"]) == (f"models/{MODEL}", "300s")
    assert made["systemInstruction"]["parts"] == [{"text": "Be brief."}]
    assert made["tools"][0]["functionDeclarations"][0]["name"] == "weather"
    assert first == second
    assert first == {
        "contents": [{"role": "user", "parts": [{"text": "What does it say?"}]}],
        "cachedContent": "cachedContents/1",
        "generationConfig": {"temperature": 0.5},
    }
    assert written == [4096, 0]


def test_asyncio_apps_have_the_same_caches(client, provider):
    provider.script(CACHE)
    session = SimpleNamespace(state={})
    cache = ContextCache(client, model=MODEL, split_index=2)

    async def play():
        async with client.aio:
            return await cache.arequest(session, CODEC.request(long_thread()))

    request = asyncio.run(play())
    assert request["config"] == {"cached_content": "cachedContents/1"}
    assert cache.last_written == 4096
    assert ContextCache(client, model=MODEL, split_index=2).request(session, CODEC.request(long_thread())) == request


def test_a_cache_without_a_name_is_an_error(client, provider):
    provider.script({"model": f"models/{MODEL}"})
    session = SimpleNamespace(state={})
    with pytest.raises(CacheWithoutName, match="without a name"):
        ContextCache(client, model=MODEL, split_index=2).request(session, CODEC.request(long_thread()))
    assert session.state == {}
