"""What a codec is, and the values it deals in. Codecs are pure: no I/O, and an SDK only to rebuild objects."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Protocol

from threadkeep.model import Entry, JsonObject, Kind
from threadkeep.strict_json import dump_json

Prepared = Callable[[Any, int, list[Any]], Any]
"""A hook on each native message of a request: the message, its place, all as they were; gives the one to send."""


@dataclass(frozen=True, slots=True)
class Part:
    """One entry's worth of a message. Most messages make one part; an answer of OpenAI Responses one for each item.

    Attributes:
        kind: Who speaks.
        body: What the provider must get back, as JSON.
        meta: What is known besides (`model`, `stop`, `usage` as the provider counts, `native_id`); never sent back.
    """

    kind: Kind
    body: Any
    meta: JsonObject = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A model's wish to have a tool run.

    Attributes:
        id: The provider's id of the call, or one made where it gave none; never empty.
        name: The tool's name.
        args: Parsed arguments; the text itself for a tool that takes free text.
        problem: Why the call must not be run (arguments that are no JSON, an answer cut short); empty if it may.
    """

    id: str
    name: str
    args: Any
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, counted the same way for every provider.

    Attributes:
        input: All prompt tokens, cached ones included.
        output: All generated tokens, reasoning included.
        cache_read: Part of `input` that came from a cache.
        cache_write: Part of `input` that was written to a cache.
        reasoning: Part of `output` spent on reasoning.
        requests: Model invocations.
    """

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write: int = 0
    reasoning: int = 0
    requests: int = 0

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input + other.input,
            self.output + other.output,
            self.cache_read + other.cache_read,
            self.cache_write + other.cache_write,
            self.reasoning + other.reasoning,
            self.requests + other.requests,
        )


@dataclass(frozen=True, slots=True)
class Reply:
    """What one answer of a model asks for, read from its stored entries.

    Attributes:
        calls: Tools to run, in order.
        usage: Tokens of this answer; `requests` is 1.
        text: The visible text, concatenated.
        stop: The provider's own word for why it stopped; empty if it gave none.
        again: The provider paused and wants to be called again with what it said so far.
    """

    calls: list[ToolCall] = field(default_factory=list)
    usage: Usage = field(default_factory=lambda: Usage(requests=1))
    text: str = ""
    stop: str = ""
    again: bool = False


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool as a provider is told of it.

    Attributes:
        name: Unique among the tools.
        description: What it does, for the model.
        schema: JSON Schema of its arguments, an object's.
        strict: Ask the provider to hold arguments to the schema; None leaves it to the provider.
    """

    name: str
    description: str
    schema: JsonObject
    strict: bool | None = None


class Codec(Protocol):
    """How one provider's messages are kept and sent back. `name` is what entries carry as their `fmt`.

    Bodies that are handed in may be changed by nobody; what is returned shares nothing with them.
    """

    name: str

    def encode(self, message: Any, entry_id: str) -> list[Part]:
        """What is stored of a message: a dict as the provider takes it, or an SDK's object, an answer included.

        Args:
            message: The message.
            entry_id: Of the first part's entry; ids that must be made up are derived from it, so that a repeat agrees.

        Raises:
            InvalidMessage: what this provider would refuse for certain, or what is no JSON.
            EmptyReply: an answer without anything to keep, as a blocked one.
        """
        ...

    def system(self, content: Any) -> Part:
        """A system prompt; the last one of a thread is in force."""
        ...

    def user(self, content: Any) -> Part:
        """What a user says: text, or content as the provider takes it."""
        ...

    def result(self, call: ToolCall, content: Any, *, error: bool = False) -> Part:
        """The answer to one tool call; content that the provider does not take as it is becomes JSON text."""
        ...

    def reply(self, entries: Sequence[Entry]) -> Reply:
        """What the entries of one answer ask for. Needs nothing but what is stored, so that a run can be resumed."""
        ...

    def calls(self, entry: Entry) -> list[ToolCall]:
        """The tool calls in an entry that the app must answer; those that a provider runs itself are none."""
        ...

    def answers(self, entry: Entry) -> list[str]:
        """Ids of the calls that an entry answers; `name:<tool>` for one that names its tool alone."""
        ...

    def request(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Keyword arguments for the provider's own call: `request(entries, *, tools=(), prepared=None, …)`.

        Args:
            args: The entries (`Sequence[Entry]`), in order; each tool result stands behind the answer that called it,
                in call order.
            kwargs: `tools` (`Sequence[ToolDefinition]`; left out of the request where there are none), `prepared`
                (`Prepared`, called for each native message last of all, not for a system prompt that travels apart),
                and the codec's own options, each by its name; one that it does not know is a `TypeError`.
        """
        ...

    def native(self, entries: Sequence[Entry]) -> list[Any]:
        """The messages as the app's framework has them: bodies, or its own objects."""
        ...

    def cut(self, entries: Sequence[Entry], at: int) -> int:
        """Where to cut so that what stands before is valid without what follows; `at`, or earlier."""
        ...


def applied(prepared: Prepared | None, messages: list[Any]) -> list[Any]:
    """The messages of a request, each through the hook if there is one."""
    if prepared is None:
        return messages
    return [prepared(message, index, messages) for index, message in enumerate(messages)]


def made_call_id(entry_id: str, place: int) -> str:
    """16 hex digits for a call that came without an id: the same again for the same place in the same entry."""
    return blake2b(f"{entry_id}:{place}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def dump_text(content: Any) -> str:
    """Text as it stands, nothing for None, anything else as compact JSON, in letters where those can be sent."""
    if isinstance(content, str):
        return content
    return "" if content is None else json_text(content)


def json_text(value: Any) -> str:
    """JSON for a model, which reads letters better than escapes; escaped all the same if UTF-8 cannot carry it."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text if _is_utf8(text) else dump_json(value).decode("ascii")


def _is_utf8(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
