"""How `show` tells what a message says, whichever provider's JSON it is."""

import pytest

from threadkeep.cli.rendering import Part, brief, parts_of


@pytest.mark.parametrize(
    ("body", "parts"),
    [
        ("hello", [Part("text", "hello")]),
        ({"role": "user", "content": "hello"}, [Part("text", "hello")]),
        (
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "x"},
                    {"type": "text", "text": "I look."},
                    {"type": "tool_use", "id": "t", "name": "read", "input": {"path": "a.py", "n": 2}},
                ],
            },
            [Part("thinking", "hm"), Part("text", "I look."), Part("call", 'read(path="a.py", n=2)')],
        ),
        (
            {"role": "user", "content": [{"type": "tool_result", "content": [{"type": "text", "text": "out"}]}]},
            [Part("result", "out")],
        ),
        (
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"type": "function", "function": {"name": "read", "arguments": '{"path":"a"}'}}],
            },
            [Part("call", 'read(path="a")')],
        ),
        ({"tool_calls": [{"name": "read", "args": {"a": 1}, "function": None}]}, [Part("call", "read(a=1)")]),
        ({"role": "tool", "tool_call_id": "t", "content": "out"}, [Part("result", "out")]),
        ({"type": "function_call", "name": "read", "arguments": "{}"}, [Part("call", "read()")]),
        ({"type": "function_call_output", "output": "out"}, [Part("result", "out")]),
        (
            {"role": "model", "parts": [{"text": "hi"}, {"functionCall": {"name": "read", "args": {"a": 1}}}]},
            [Part("text", "hi"), Part("call", "read(a=1)")],
        ),
        ({"role": "user", "parts": [{"functionResponse": {"response": {"x": 1}}}]}, [Part("result", '{"x": 1}')]),
        ('{"id":"1","message":{"role":"user","content":"as zeitlich has it"}}', [Part("text", "as zeitlich has it")]),
        ([1, 2], [Part("other", "[1, 2]")]),
        (
            {"role": "user", "content": [{"type": "image", "n": 1}]},
            [Part("other", '[image] {"type": "image", "n": 1}')],
        ),
    ],
)
def test_each_providers_messages_are_told_apart_into_parts(body, parts):
    assert parts_of(body) == parts


def test_long_results_are_cut_and_say_what_was_left_out():
    text = "\n".join(f"line {n}" for n in range(10))
    assert brief(Part("result", text)) == "line 0\nline 1\nline 2\n… 7 more lines, 69 characters in all"
    assert brief(Part("text", text)) == text
    assert len(brief(Part("call", "x" * 1000))) == 160
