"""Conversations made at run time from the machine's own Python sources: real text, the same on every call."""

import sysconfig
from collections.abc import Iterator
from pathlib import Path


def sources() -> Iterator[str]:
    """The standard library's modules, in order of their paths, again and again."""
    files = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    texts = [file.read_text(encoding="utf-8", errors="replace") for file in files]
    while True:
        yield from texts


def conversation(messages: int, size: int) -> Iterator[dict[str, object]]:
    """User, assistant, tool call and tool result in turn; about `size` bytes of text in all."""
    each = size // messages
    text = "".join(part for part, _ in zip(sources(), range(400), strict=False))
    at = 0
    for number in range(messages):
        piece, at = text[at : at + each], (at + each) % (len(text) - each)
        call = f"toolu_{number // 4:06d}"
        match number % 4:
            case 0:
                yield {"role": "user", "content": piece}
            case 1:
                yield {"role": "assistant", "content": [{"type": "text", "text": piece}]}
            case 2:
                use = {"type": "tool_use", "id": call, "name": "read_file", "input": {"text": piece}}
                yield {"role": "assistant", "content": [use]}
            case _:
                yield {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call, "content": piece}]}
