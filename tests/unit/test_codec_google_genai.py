"""Gemini's messages as values: what is kept of them, what is read from it, what goes back, what a cache takes."""

import asyncio
import base64
import json
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from threadkeep.errors import CacheWithoutName, EmptyReply, InvalidMessage, ThreadkeepError
from threadkeep.model import Entry
from threadkeep.session.codecs import codec_for
from threadkeep.session.codecs.base import Reply, ToolCall, ToolDefinition, Usage
from threadkeep.session.codecs.google_cache import ContextCache, split_cache
from threadkeep.session.codecs.google_genai import GoogleGenAICodec
from threadkeep.strict_json import dump_json

CODEC = GoogleGenAICodec()
SIGNATURE = base64.b64encode(b"\xfb\xff\xfe signed").decode()
WEATHER = ToolDefinition("weather", "Tells the weather.", {"type": "object", "properties": {"a_city": {}}})
CALL = ToolCall("c1", "weather", {})


def kept(*parts, fmt="google-genai", first="m"):
    """Parts as entries that went through a store."""
    entries = [Entry(f"{first}{at}", part.kind, part.body, fmt, part.meta) for at, part in enumerate(parts)]
    return [Entry.from_record(entry.to_record()) for entry in entries]


def encoded(*messages):
    return [part for at, message in enumerate(messages) for part in CODEC.encode(message, f"m{at}")]


def answer(*parts, stop="STOP", **more):
    content = {"role": "model", "parts": list(parts)}
    return {"candidates": [{"content": content, "finishReason": stop, "index": 0}], **more}


def call(name="weather", **more):
    return {"functionCall": {"name": name, "args": {}, **more}}


def respond(name="weather", **more):
    return {"functionResponse": {"name": name, "response": {}, **more}}


def sent_ids(*messages):
    """Ids of the calls of a request, and those of its responses."""
    contents = CODEC.request(kept(*encoded(*messages)))["contents"]
    parts = [part for content in contents for part in content["parts"]]
    return [[part[name].get("id") for part in parts if name in part] for name in ("functionCall", "functionResponse")]


def user(text):
    return {"role": "user", "parts": [{"text": text}]}


# --- encode ---------------------------------------------------------------------------------------------------------


def test_the_codec_is_found_by_its_name():
    assert codec_for("google-genai").name == "google-genai"


def test_a_content_is_kept_as_it_is():
    content = {"role": "user", "parts": [{"text": "Hi"}, {"fileData": {"fileUri": "gs://a/b", "mimeType": "text/csv"}}]}
    [part] = CODEC.encode(content, "m")
    assert (part.kind, part.body, part.meta) == ("user", content, {})


def test_names_are_stored_as_they_travel_and_the_apps_own_json_is_left_alone():
    args = {"file_path": "/a", "unit_of_measure": None}
    [part] = CODEC.encode(
        {
            "role": "model",
            "parts": [
                {"function_call": {"id": "c", "name": "f", "args": args}, "thought_signature": SIGNATURE, "text": None},
                {"inline_data": {"mime_type": "image/png", "data": b"\xfb\xff", "display_name": None}},
            ],
        },
        "m",
    )
    assert part.body["parts"] == [
        {"functionCall": {"id": "c", "name": "f", "args": args}, "thoughtSignature": SIGNATURE},
        {"inlineData": {"mimeType": "image/png", "data": "+/8="}},
    ]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ({"parts": [{"text": "no role"}]}, "user"),
        ({"role": "user", "parts": [{"function_response": {"id": "c", "name": "f", "response": {}}}]}, "tool"),
        ({"role": "model", "parts": [{"text": "x"}]}, "assistant"),
        ({"role": "model", "parts": [{"functionResponse": {}}]}, "assistant"),
        ({"role": "system", "parts": [{"text": "x"}]}, "system"),
        ({"role": "system", "content": "x"}, "system"),
    ],
)
def test_the_role_says_who_speaks(content, kind):
    [part] = CODEC.encode(content, "m")
    assert part.kind == kind


@pytest.mark.parametrize(
    ("message", "field"),
    [
        ("Hi", "message"),
        ({"role": "assistant", "parts": [{"text": "x"}]}, "message.role"),
        ({"role": ["user"], "parts": [{"text": "x"}]}, "message.role"),
        ({"role": "user"}, "message.parts"),
        ({"role": "system"}, "message.parts"),
        ({"role": "user", "parts": []}, "message.parts"),
        ({"role": "user", "parts": [{}]}, "message.parts"),
        ({"role": "user", "parts": ["Hi"]}, "message.parts"),
        ({"role": "model", "parts": [call(willContinue=True)]}, "message.parts"),
        ([user("Hi")], "message[0]"),
        ({"role": "user", "parts": [{"inlineData": {"data": object()}}]}, "message"),
    ],
)
def test_what_gemini_would_refuse_is_refused(message, field):
    with pytest.raises(InvalidMessage) as caught:
        CODEC.encode(message, "m")
    assert caught.value.field == field


def test_of_an_answer_the_first_candidate_is_kept_and_what_is_known_besides():
    usage = {"promptTokenCount": 5, "candidatesTokenCount": 2}
    told = answer({"text": "Hi"}, usageMetadata=usage, modelVersion="gemini-3-pro", responseId="r1")
    told["candidates"].append({"content": {"role": "model", "parts": [{"text": "Ho"}]}, "index": 1})
    [part] = CODEC.encode(told, "m")
    assert part.kind == "assistant"
    assert part.body == {"role": "model", "parts": [{"text": "Hi"}]}
    assert part.meta == {"model": "gemini-3-pro", "stop": "STOP", "usage": usage, "native_id": "r1"}


def test_chunks_of_a_stream_are_one_answer_whose_parts_are_never_merged():
    signed = {"text": "", "thoughtSignature": SIGNATURE}
    chunks = [
        answer({"text": "think", "thought": True}, stop=None, modelVersion="g", responseId="r", usageMetadata={}),
        answer({"text": "Hel"}, stop=None, usageMetadata={"promptTokenCount": 9}),
        answer({"text": "lo"}, signed),
        {"candidates": [{"finishReason": None, "index": 0}], "usageMetadata": None},
    ]
    [part] = CODEC.encode(chunks, "m")
    assert part.body["parts"] == [{"text": "think", "thought": True}, {"text": "Hel"}, {"text": "lo"}, signed]
    assert part.meta == {"model": "g", "stop": "STOP", "usage": {"promptTokenCount": 9}, "native_id": "r"}


@pytest.mark.parametrize(
    ("message", "stop"),
    [
        ({"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 3}}, "SAFETY"),
        ([{"prompt_feedback": {"block_reason": "OTHER"}}], "OTHER"),
        ({"candidates": [{"finishReason": "RECITATION"}]}, "RECITATION"),
        (answer(stop="MAX_TOKENS"), "MAX_TOKENS"),
        (answer({}), "STOP"),
        (answer({"text": ""}), "STOP"),
        ([], ""),
        ({"role": "model", "parts": []}, ""),
    ],
)
def test_a_blocked_answer_is_an_empty_reply(message, stop):
    with pytest.raises(EmptyReply) as caught:
        CODEC.encode(message, "m")
    assert caught.value.stop == stop


def test_an_answer_with_a_part_that_the_sdk_did_not_know_is_marked_as_lossy():
    [part] = CODEC.encode(answer({}, {"text": "x"}), "m")
    assert (part.body["parts"], part.meta["lossy"]) == ([{}, {"text": "x"}], True)


def test_what_is_handed_in_is_neither_changed_nor_shared():
    message = answer(call(args={"a": {"b": 1}}))
    before = deepcopy(message)
    [part] = CODEC.encode(message, "m")
    part.body["parts"][0]["functionCall"]["args"]["a"]["b"] = 2
    assert message == before


# --- ids of calls ---------------------------------------------------------------------------------------------------


def test_a_call_without_an_id_gets_one_of_16_hex_digits():
    [made] = CODEC.calls(kept(*encoded(answer(call())))[0])
    assert len(made.id) == 16
    assert int(made.id, 16) >= 0


def test_an_id_that_the_model_gave_is_kept():
    [found] = CODEC.calls(kept(*encoded(answer(call(id="theirs"))))[0])
    assert found.id == "theirs"


def test_ids_made_for_five_parallel_calls_are_unique():
    calls = CODEC.calls(kept(*encoded(answer(*[call() for _ in range(5)])))[0])
    assert len({each.id for each in calls}) == 5


def test_the_ids_of_stored_parts_are_those_of_the_calls():
    [entry] = kept(*encoded(answer({"text": "x"}, call(), call("b"))))
    stored = [part["functionCall"]["id"] for part in entry.body["parts"][1:]]
    assert stored == [each.id for each in CODEC.calls(entry)]


def test_given_and_made_ids_stand_side_by_side():
    first, second, third = CODEC.calls(kept(*encoded(answer(call(id="x"), call(), call(id="z"))))[0])
    assert (first.id, third.id) == ("x", "z")
    assert second.id not in {"", "x", "z"}


def test_a_repeated_answer_gets_the_same_ids_and_another_entry_gets_others():
    assert CODEC.encode(answer(call()), "m") == CODEC.encode(answer(call()), "m")
    assert CODEC.encode(answer(call()), "m") != CODEC.encode(answer(call()), "n")


def test_an_imported_call_without_an_id_is_sent_with_the_one_that_it_is_read_with():
    entry = Entry("m\ud800", "assistant", {"role": "model", "parts": [call()]}, "google-genai")
    [found] = CODEC.calls(entry)
    [content] = CODEC.request([entry])["contents"]
    assert content["parts"][0]["functionCall"]["id"] == found.id
    assert "id" not in entry.body["parts"][0]["functionCall"]


def test_a_response_without_an_id_is_sent_with_that_of_its_call():
    calls, responses = sent_ids(answer(call()), {"role": "user", "parts": [respond()]})
    assert calls == responses
    assert len(calls[0]) == 16


def test_responses_without_ids_answer_the_calls_of_their_tool_in_turn():
    asked = answer(call(id="a"), call("clock", id="b"), call(id="c"))
    responses = [{"role": "user", "parts": [respond(), respond()]}, {"role": "user", "parts": [respond("clock")]}]
    assert sent_ids(asked, *responses) == [["a", "b", "c"], ["a", "c", "b"]]


def test_a_response_without_an_id_leaves_calls_alone_that_another_answers_by_id():
    responses = {"role": "user", "parts": [respond(), respond(id="a")]}
    assert sent_ids(answer(call(id="a"), call(id="b")), responses) == [["a", "b"], ["b", "a"]]


def test_a_call_of_an_earlier_turn_that_was_answered_is_not_answered_again():
    turn = {"role": "user", "parts": [respond()]}
    assert sent_ids(answer(call(id="a")), turn, answer(call(id="b")), turn) == [["a", "b"], ["a", "b"]]


def test_a_response_to_no_call_stays_without_an_id():
    asked = answer(call(id="a"))
    assert sent_ids({"role": "user", "parts": [respond()]}, asked, {"role": "user", "parts": [respond("clock")]}) == [
        ["a"],
        [None, None],
    ]


def test_the_id_that_a_response_is_sent_with_is_not_stored():
    entries = kept(*encoded(answer(call(id="a")), {"role": "user", "parts": [respond()]}))
    CODEC.request(entries)
    assert entries[1].body["parts"] == [respond()]


# --- what an answer asks for ----------------------------------------------------------------------------------------


def test_a_reply_has_the_visible_text_the_calls_and_the_tokens():
    usage = {
        "promptTokenCount": 100,
        "toolUsePromptTokenCount": 7,
        "candidatesTokenCount": 20,
        "thoughtsTokenCount": 30,
        "cachedContentTokenCount": 60,
    }
    parts = [{"text": "hm", "thought": True}, {"text": "Let me "}, {"text": "see."}, call(id="c", args={"a": None})]
    reply = CODEC.reply(kept(*encoded(answer(*parts, usageMetadata=usage))))
    assert reply.text == "Let me see."
    assert reply.calls == [ToolCall("c", "weather", {"a": None})]
    assert reply.usage == Usage(input=107, output=50, cache_read=60, reasoning=30, requests=1)
    assert (reply.stop, reply.again) == ("STOP", False)


def test_a_reply_without_any_facts_counts_one_request():
    reply = CODEC.reply(kept(*encoded({"role": "model", "parts": [{"text": "x"}]})))
    assert (reply.usage, reply.stop) == (Usage(requests=1), "")
    assert CODEC.reply([]) == Reply()


def test_tools_that_gemini_runs_itself_are_no_calls():
    ran = {"executableCode": {"code": "1", "language": "PYTHON"}}
    [entry] = kept(*encoded(answer(ran, {"codeExecutionResult": {"outcome": "OUTCOME_OK"}}, {"toolCall": {"id": "t"}})))
    assert CODEC.calls(entry) == []


@pytest.mark.parametrize("stop", ["MAX_TOKENS", "MALFORMED_FUNCTION_CALL"])
def test_the_last_call_of_an_answer_that_was_cut_short_must_not_be_run(stop):
    first, last = CODEC.calls(kept(*encoded(answer(call(id="a"), call(id="b"), stop=stop)))[0])
    assert (first.problem, last.problem) == ("", f"the answer was cut short ({stop})")


def test_results_name_the_calls_that_they_answer():
    result, said, asked = kept(CODEC.result(CALL, "x"), CODEC.user("x"), *encoded(answer(call(id="c1"))))
    assert [CODEC.answers(each) for each in (result, said, asked)] == [["c1"], [], []]
    assert CODEC.calls(result) == []


@pytest.mark.parametrize("absent", [{}, {"id": ""}, {"id": None}])
def test_a_response_without_an_id_answers_by_the_name_of_its_tool(absent):
    [entry] = kept(*encoded({"role": "user", "parts": [respond("weather", **absent), respond("clock", id="c2")]}))
    assert CODEC.answers(entry) == ["name:weather", "c2"]


def test_a_response_that_names_neither_call_nor_tool_answers_none():
    [entry] = kept(*encoded({"role": "user", "parts": [{"functionResponse": {"response": {}}}]}))
    assert CODEC.answers(entry) == []


def test_only_the_model_makes_calls():
    [entry] = kept(*encoded({"role": "user", "parts": [call(id="c")]}))
    assert CODEC.calls(entry) == []


# --- results --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "error", "response"),
    [
        ({"sky": "blue", "wind_speed": None}, False, {"sky": "blue", "wind_speed": None}),
        (None, False, {"result": None}),
        ("sunny", False, {"result": "sunny"}),
        (21.5, False, {"result": 21.5}),
        (True, False, {"result": True}),
        ([1, {"a_b": 2}], False, {"result": [1, {"a_b": 2}]}),
        ([], False, {"result": []}),
        ([{"text": "only text"}], False, {"result": [{"text": "only text"}]}),
        ([{"fileData": "no part"}], False, {"result": [{"fileData": "no part"}]}),
        (b"\xfb\xff", False, {"result": "+/8="}),
        ("no such city", True, {"error": "no such city"}),
        ({"code": 404}, True, {"error": {"code": 404}}),
        ({"error": "interrupted"}, True, {"error": "interrupted"}),
    ],
)
def test_a_result_is_one_response_with_its_calls_id_and_name(content, error, response):
    part = CODEC.result(CALL, content, error=error)
    assert part.kind == "tool"
    assert part.body == {
        "role": "user",
        "parts": [{"functionResponse": {"id": "c1", "name": "weather", "response": response}}],
    }


def test_media_that_a_tool_gives_travel_inside_its_response():
    part = CODEC.result(CALL, [{"text": "A map"}, {"inline_data": {"mime_type": "image/png", "data": b"\x00"}}])
    [sent] = part.body["parts"]
    assert sent["functionResponse"]["response"] == {"result": "A map"}
    assert sent["functionResponse"]["parts"] == [{"inlineData": {"mimeType": "image/png", "data": "AA=="}}]


def test_a_response_of_the_tools_own_making_gets_its_calls_id():
    given = [{"function_response": {"id": "wrong", "name": "", "response": {"a_b": 1}}}, {"text": "see above"}]
    part = CODEC.result(CALL, given)
    assert part.body["parts"] == [
        {"functionResponse": {"id": "c1", "name": "weather", "response": {"a_b": 1}}},
        {"text": "see above"},
    ]


def test_a_list_with_two_responses_is_data_since_a_call_has_one():
    given = [{"functionResponse": {"response": {}}}, {"functionResponse": {"response": {}}}]
    [sent] = CODEC.result(CALL, given).body["parts"]
    assert sent["functionResponse"]["response"] == {"result": given}


def test_a_result_that_is_no_json_is_refused():
    with pytest.raises(InvalidMessage, match="object"):
        CODEC.result(CALL, {"a": object()})


# --- what a user says -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("Hi", [{"text": "Hi"}]),
        ({"text": "Hi"}, [{"text": "Hi"}]),
        (["Hi", {"file_data": {"file_uri": "u"}}], [{"text": "Hi"}, {"fileData": {"fileUri": "u"}}]),
        ({"role": "user", "parts": [{"text": "Hi"}]}, [{"text": "Hi"}]),
    ],
)
def test_a_user_says_text_or_parts(content, parts):
    assert CODEC.user(content).body == {"role": "user", "parts": parts}


@pytest.mark.parametrize("content", ["", [], [{}], [1], None])
def test_a_user_cannot_say_nothing(content):
    with pytest.raises(InvalidMessage):
        CODEC.user(content)


# --- requests -------------------------------------------------------------------------------------------------------


def test_neighbours_of_one_role_are_one_content():
    entries = kept(
        CODEC.user("a"),
        CODEC.user("b"),
        *encoded(answer(call(id="c1"), call(id="c2"))),
        CODEC.result(CALL, "one"),
        CODEC.result(ToolCall("c2", "weather", {}), "two"),
        CODEC.user("and now?"),
    )
    contents = CODEC.request(entries)["contents"]
    assert [content["role"] for content in contents] == ["user", "model", "user"]
    assert [part.get("functionResponse", {}).get("id") for part in contents[2]["parts"]] == ["c1", "c2", None]
    assert contents[0]["parts"] == [{"text": "a"}, {"text": "b"}]


def test_parts_that_say_nothing_are_not_sent():
    signed = {"text": "", "thoughtSignature": SIGNATURE}
    entries = kept(*encoded(user("Hi"), answer({}, {"text": ""}, {"text": "", "thought": True}, {"text": "x"}, signed)))
    entries.append(Entry("e", "assistant", {"role": "model", "parts": [{}]}, "google-genai"))
    assert CODEC.request(entries)["contents"][1:] == [{"role": "model", "parts": [{"text": "x"}, signed]}]


def test_the_last_system_prompt_is_in_force():
    entries = kept(CODEC.system("old"), CODEC.user("Hi"), CODEC.system([{"text": "be"}, {"text": "brief"}]))
    request = CODEC.request(entries)
    assert request["config"] == {"system_instruction": {"parts": [{"text": "be"}, {"text": "brief"}]}}
    assert request["contents"] == [user("Hi")]


@pytest.mark.parametrize("body", [{"role": "system", "content": "x"}, {"role": "system", "parts": [{"text": "x"}]}])
def test_system_prompts_are_read_in_either_form(body):
    request = CODEC.request([Entry("s", "system", body, "google-genai"), *kept(CODEC.user("Hi"))])
    assert request["config"]["system_instruction"] == {"parts": [{"text": "x"}]}


def test_there_is_no_config_without_a_prompt_or_a_tool():
    assert CODEC.request(kept(CODEC.user("Hi"))) == {"contents": [user("Hi")]}


def test_tools_are_declared_with_their_json_schema():
    config = CODEC.request(kept(CODEC.user("Hi")), tools=[WEATHER])["config"]
    declared = {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters_json_schema": {"type": "object", "properties": {"a_city": {}}},
    }
    assert config == {"tools": [{"function_declarations": [declared]}]}


def test_the_apps_config_goes_along():
    entries = kept(CODEC.system("s"), CODEC.user("Hi"))
    config = CODEC.request(entries, config={"temperature": 0, "toolConfig": {"a": 1}, "seed": None})["config"]
    assert config == {
        "system_instruction": {"parts": [{"text": "s"}]},
        "temperature": 0,
        "toolConfig": {"a": 1},
    }


@pytest.mark.parametrize("taken", ["system_instruction", "systemInstruction", "tools"])
def test_a_config_that_would_replace_the_prompt_or_the_tools_is_refused(taken):
    with pytest.raises(ValueError, match=f"config carries {taken}"):
        CODEC.request(kept(CODEC.user("Hi")), config={taken: "x"})


def test_a_cache_of_the_apps_own_stands_for_the_prompt_and_the_tools():
    entries = kept(CODEC.system("s"), CODEC.user("Hi"))
    request = CODEC.request(entries, tools=[WEATHER], config={"cached_content": "cachedContents/1"})
    assert request["config"] == {"cached_content": "cachedContents/1"}


def test_an_unknown_option_is_a_type_error():
    with pytest.raises(TypeError):
        CODEC.request([], cache="5m")


def test_without_a_hook_contents_are_as_they_were_stored():
    assert CODEC.request(kept(CODEC.user("a"), *encoded(answer({"text": "b"}))))["contents"] == [
        user("a"),
        {"role": "model", "parts": [{"text": "b"}]},
    ]


def test_a_hook_sees_each_merged_content_its_place_and_the_whole_list_but_no_system_prompt():
    seen = []

    def prepared(content, index, contents):
        seen.append((content["role"], index, len(contents)))
        return content

    entries = kept(CODEC.system("s"), CODEC.user("a"), CODEC.user("b"), *encoded(answer({"text": "c"})))
    CODEC.request(entries, prepared=prepared)
    assert seen == [("user", 0, 2), ("model", 1, 2)]


def test_what_a_hook_gives_is_sent():
    def shout(content, index, contents):
        return {**content, "parts": [{"text": content["parts"][0]["text"].upper()}]}

    assert CODEC.request(kept(CODEC.user("a")), prepared=shout)["contents"] == [user("A")]


def test_a_hook_on_contents_sees_what_was_changed_in_the_entries_before():
    changed = [replace(entry, body=user("changed")) for entry in kept(CODEC.user("as stored"))]
    assert CODEC.request(changed, prepared=lambda content, index, contents: deepcopy(content)) == {
        "contents": [user("changed")]
    }


def test_a_request_shares_nothing_with_what_is_stored():
    said = [CODEC.system([{"text": "s"}]), CODEC.user("a"), *encoded(answer(call(id="c", args={"a": [1]})))]
    entries = kept(*said, *encoded({"role": "model", "parts": [{"text": "more"}]}))
    before = deepcopy(entries)
    request = CODEC.request(entries, tools=[WEATHER])
    for content in request["contents"]:
        for part in content["parts"]:
            part.clear()
        content["parts"].clear()
    request["config"]["system_instruction"]["parts"][0].clear()
    request["config"]["tools"][0]["function_declarations"][0]["parameters_json_schema"].clear()
    CODEC.native(entries)[1]["parts"].clear()
    CODEC.calls(entries[2])[0].args["a"].append(2)
    assert entries == before
    assert WEATHER.schema


def test_every_answer_is_one_entry_so_that_any_place_is_fit_to_cut():
    entries = kept(CODEC.user("a"), *encoded(answer(call())), CODEC.result(CALL, "x"))
    assert [CODEC.cut(entries, at) for at in range(4)] == [0, 1, 2, 3]


# --- any part, stored and sent again --------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=8), JSON, max_size=3)
BASE64 = st.binary(max_size=24).map(lambda data: base64.b64encode(data).decode())
NAMES = st.from_regex(r"[a-z][a-z_]{0,9}", fullmatch=True)
PARTS = st.one_of(
    st.builds(lambda text: {"text": text}, st.text(min_size=1)),
    st.builds(lambda text, sign: {"text": text, "thought": True, "thoughtSignature": sign}, st.text(), BASE64),
    st.builds(
        lambda name, args, call_id, sign: {
            "functionCall": {"name": name, "args": args, **({"id": call_id} if call_id else {})},
            "thoughtSignature": sign,
        },
        NAMES,
        OBJECTS,
        st.none() | NAMES,
        BASE64,
    ),
    st.builds(lambda data: {"inlineData": {"mimeType": "application/pdf", "data": data}}, BASE64),
    st.builds(lambda code: {"executableCode": {"language": "PYTHON", "code": code}}, st.text(min_size=1)),
    st.builds(lambda value: {"kindOfTomorrow": value}, OBJECTS),
)


@given(st.lists(PARTS, min_size=1, max_size=6))
def test_any_answer_is_sent_again_part_by_part_with_nothing_changed_but_the_missing_ids(parts):
    parts = [part for part in parts if any(value != "" for name, value in part.items() if name != "thought")]
    if not parts:
        parts = [{"text": "x"}]
    fresh = encoded(answer(*parts))
    before = CODEC.request([Entry("m0", part.kind, part.body, "google-genai", part.meta) for part in fresh])
    request = CODEC.request(kept(*fresh))
    assert dump_json(request) == dump_json(before)
    sent = json.loads(dump_json(request))["contents"][0]["parts"]
    for part, given_part in zip(sent, parts, strict=True):
        if "functionCall" in part and "id" not in given_part["functionCall"]:
            assert len(part["functionCall"].pop("id")) == 16
        assert part == given_part


@given(JSON, st.booleans())
def test_any_result_is_one_valid_response(content, error):
    part = CODEC.result(CALL, content, error=error)
    [entry] = kept(part)
    [response] = entry.body["parts"]
    assert CODEC.answers(entry) == ["c1"]
    assert isinstance(response["functionResponse"]["response"], dict)
    assert dump_json(CODEC.request([entry])["contents"]) == dump_json([part.body])


# --- context caches -------------------------------------------------------------------------------------------------

REQUEST = {
    "contents": [user("long document"), {"role": "model", "parts": [{"text": "read"}]}, user("question")],
    "config": {
        "system_instruction": {"parts": [{"text": "s"}]},
        "tools": [{"function_declarations": []}],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY"}},
        "temperature": 0.5,
    },
}


class Caches:
    """Stands where `client.caches` and `client.aio.caches` are: keeps what it was asked, answers with a cache."""

    def __init__(self, name="cachedContents/1", tokens=2048):
        usage = SimpleNamespace(total_token_count=tokens) if tokens is not None else None
        self.cache = SimpleNamespace(name=name, usage_metadata=usage)
        self.made = []
        self.caches = self
        self.aio = SimpleNamespace(caches=SimpleNamespace(create=self.acreate))

    def create(self, **asked):
        self.made.append(asked)
        return self.cache

    async def acreate(self, **asked):
        return self.create(**asked)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def session():
    return SimpleNamespace(state={})


def test_the_front_goes_into_the_cache_and_the_rest_is_said_live():
    client = Caches()
    sent = ContextCache(client, model="g", split_index=2).request(session(), REQUEST)
    assert sent == {
        "contents": [user("question")],
        "config": {"temperature": 0.5, "cached_content": "cachedContents/1"},
    }
    assert client.made == [
        {
            "model": "g",
            "config": {
                "contents": REQUEST["contents"][:2],
                "system_instruction": {"parts": [{"text": "s"}]},
                "tools": [{"function_declarations": []}],
                "tool_config": {"functionCallingConfig": {"mode": "ANY"}},
                "ttl": "300s",
            },
        }
    ]


@pytest.mark.parametrize("split_index", [3, 4, 0, -1])
def test_there_is_no_cache_without_both_a_front_and_a_rest(split_index):
    client = Caches()
    cache = ContextCache(client, model="g", split_index=split_index)
    assert cache.request(session(), REQUEST) is REQUEST
    assert client.made == []


@pytest.mark.parametrize("name", ["cached_content", "cachedContent"])
def test_a_request_with_a_cache_of_the_apps_own_is_left_alone(name):
    assert split_cache({"contents": REQUEST["contents"], "config": {name: "x"}}, 1, "g") is None


def test_a_cache_lives_as_long_as_asked():
    client = Caches()
    ContextCache(client, model="g", split_index=1, ttl_seconds=3600).request(session(), REQUEST)
    assert client.made[0]["config"]["ttl"] == "3600s"


def test_the_name_of_a_cache_is_remembered_in_the_state_until_shortly_before_its_end():
    s, clock = session(), Clock()
    ContextCache(Caches(), model="g", split_index=2, clock=clock).request(s, REQUEST)
    digest = split_cache(REQUEST, 2, "g").digest
    assert s.state == {"context_caches": {digest: {"name": "cachedContents/1", "expires": 1295.0}}}
    assert json.loads(json.dumps(s.state)) == s.state


def test_a_cache_that_is_known_is_used_again():
    s, client = session(), Caches()
    first = ContextCache(client, model="g", split_index=2).request(s, REQUEST)
    longer = {**REQUEST, "contents": [*REQUEST["contents"], {"role": "model", "parts": [{"text": "ok"}]}]}
    cache = ContextCache(client, model="g", split_index=2)
    again = cache.request(s, longer)
    assert len(client.made) == 1
    assert again["config"] == first["config"]
    assert cache.last_written == 0


def test_an_expired_cache_is_made_anew_and_forgotten():
    s, client, clock = session(), Caches(), Clock()
    cache = ContextCache(client, model="g", split_index=2, clock=clock)
    cache.request(s, REQUEST)
    clock.now = 1295.0
    cache.request(s, {**REQUEST, "config": {}})
    assert len(client.made) == 2
    assert [each["expires"] for each in s.state["context_caches"].values()] == [1590.0]


def test_several_caches_of_a_thread_are_remembered_side_by_side():
    s, client = session(), Caches()
    for split_index in (1, 2, 1, 2):
        ContextCache(client, model="g", split_index=split_index).request(s, REQUEST)
    assert len(client.made) == len(s.state["context_caches"]) == 2


@pytest.mark.parametrize("ttl", [5, 1])
def test_a_cache_that_ends_within_the_margin_is_not_remembered(ttl):
    s, client = session(), Caches()
    sent = ContextCache(client, model="g", split_index=2, ttl_seconds=ttl).request(s, REQUEST)
    assert sent["config"]["cached_content"] == "cachedContents/1"
    assert s.state == {}


def changed(**config):
    return {**REQUEST, "config": {**REQUEST["config"], **config}}


@pytest.mark.parametrize(
    ("request_", "model"),
    [
        ({**REQUEST, "contents": [user("another"), *REQUEST["contents"][1:]]}, "g"),
        (changed(system_instruction={"parts": [{"text": "other"}]}), "g"),
        (changed(tools=[]), "g"),
        (changed(toolConfig={}), "g"),
        (REQUEST, "other"),
    ],
)
def test_whatever_changes_in_the_front_makes_another_cache(request_, model):
    assert split_cache(request_, 2, model).digest != split_cache(REQUEST, 2, "g").digest


@pytest.mark.parametrize(
    "request_",
    [
        changed(temperature=1.0),
        {**REQUEST, "contents": [*REQUEST["contents"][:2], user("another question")]},
        json.loads(json.dumps(REQUEST, sort_keys=True)),
    ],
)
def test_what_is_not_in_the_cache_leaves_it_as_it_is(request_):
    assert split_cache(request_, 2, "g").digest == split_cache(REQUEST, 2, "g").digest


def test_a_split_changes_nothing_in_the_request():
    before = deepcopy(REQUEST)
    split_cache(REQUEST, 2, "g").request("x")
    assert before == REQUEST


def test_tokens_written_to_a_new_cache_are_told():
    s = session()
    cache = ContextCache(Caches(), model="g", split_index=2)
    cache.request(s, REQUEST)
    assert cache.last_written == 2048
    cache.request(s, REQUEST)
    assert cache.last_written == 0


def test_a_cache_that_tells_no_tokens_counts_none():
    cache = ContextCache(Caches(tokens=None), model="g", split_index=2)
    cache.request(session(), REQUEST)
    assert cache.last_written == 0


def test_a_cache_without_a_name_is_an_error_and_is_not_remembered():
    s = session()
    with pytest.raises(CacheWithoutName, match="Gemini created a context cache without a name") as caught:
        ContextCache(Caches(name=None), model="g", split_index=2).request(s, REQUEST)
    assert isinstance(caught.value, ThreadkeepError)
    assert s.state == {}


def test_asyncio_apps_make_and_use_the_same_caches():
    s, client = session(), Caches()

    async def play():
        cache = ContextCache(client, model="g", split_index=2)
        return [
            await cache.arequest(s, REQUEST),
            await cache.arequest(s, REQUEST),
            await cache.arequest(s, {"contents": []}),
        ]

    first, second, none = asyncio.run(play())
    assert len(client.made) == 1
    assert first == second
    assert none == {"contents": []}
    assert ContextCache(client, model="g", split_index=2).request(s, REQUEST) == first
