"""What a model may call: a function, and how it is described."""

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from typing import Any

from pydantic import BaseModel

from threadkeep.model import JsonObject
from threadkeep.session.codecs.base import ToolCall, ToolDefinition, Usage
from threadkeep.session.loop.calling import is_async
from threadkeep.session.loop.context import AsyncToolContext, RunningBatch, ToolContext, context_of
from threadkeep.session.loop.schema import (
    Arguments,
    InvalidToolCall,
    Reader,
    Taking,
    checked_object,
    documented,
    function_behind,
)

Schema = JsonObject | type[BaseModel]


@dataclass(frozen=True, slots=True)
class ToolResult:
    """What a handler may return instead of a plain value, to say more.

    Attributes:
        content: What the model is told: text, JSON, or content as its provider takes it.
        data: For the app's hooks.
        usage: Tokens that the tool used by itself; they count as the run's.
        metadata: The app's own, for its hooks.
        error: The model is told that the call failed.
    """

    content: Any
    data: Any = None
    usage: Usage | None = None
    metadata: dict[str, Any] | None = None
    error: bool = False


@dataclass(frozen=True, slots=True)
class Rewind:
    """Returned by a handler to have the model's answer taken back and the model asked again; it costs a turn."""


@dataclass(frozen=True, eq=False)
class Tool:
    """Something that a model may call.

    Arguments reach the handler by name. Its parameter called `ctx`, or annotated as `ToolContext` (for a coroutine
    function `AsyncToolContext`), gets the context and is not shown to the model.

    Attributes:
        name: What the model calls it by; the last of several tools with one name counts.
        description: What it does, for the model; or a function that says so anew for each turn.
        handler: A function or a coroutine function. It returns what the model is told, a `ToolResult` or a `Rewind`.
        schema: JSON Schema of an object, whose arguments are handed on as they come; or a pydantic model, which checks
            and converts them, and is handed on whole if it is all that the handler takes; or a function that gives one
            of these anew for each turn. Made of the handler's signature if not given.
        enabled: Whether the model may call it; or a function that says so anew for each turn.
        hooks: An object with any of the methods of `ToolHooks`.
        strict: Ask the provider to hold arguments to the schema; None leaves it to the provider.

    Raises:
        TypeError: the handler cannot be described or called; says why.
    """

    name: str
    description: str | Callable[[], str]
    handler: Callable[..., Any]
    schema: Schema | Callable[[], Schema] | None = None
    _: KW_ONLY
    enabled: bool | Callable[[], bool] = True
    hooks: Any = None
    strict: bool | None = None
    _taking: Taking = field(init=False, repr=False)
    _reader: Reader | None = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_taking", Taking(self.handler, self.name))
        object.__setattr__(self, "_reader", self._fixed_reader())

    def _fixed_reader(self) -> Reader | None:
        if self.schema is None:
            return self._taking.reader(documented(function_behind(self.handler))[1])
        if not isinstance(self.schema, type):
            return None
        reader = Reader(self.schema)
        if self._taking.whole(self.schema) is None:
            try:
                self._taking.check(dict.fromkeys(reader.names.values()))
            except InvalidToolCall as error:
                raise TypeError(
                    f"tool {self.name!r}: its handler does not take what its schema gives: {error}"
                ) from error
        return reader

    @property
    def is_enabled(self) -> bool:
        return bool(self.enabled() if callable(self.enabled) else self.enabled)

    def definition(self) -> ToolDefinition:
        """How a provider is told of it, now."""
        source = self._source()
        schema = source.schema() if isinstance(source, Reader) else deepcopy(source)
        description = self.description() if callable(self.description) else self.description
        return ToolDefinition(self.name, description, schema, self.strict)

    def read(self, args: Any) -> Arguments:
        """A call's arguments as the handler takes them.

        Raises:
            InvalidToolCall: they do not fit.
        """
        given, source = checked_object(args), self._source()
        arguments = source.read(given) if isinstance(source, Reader) else Arguments(given)
        if self._whole(arguments.model) is None:
            self._taking.check(arguments.values)
        return arguments

    def keywords(self, arguments: Arguments, call: ToolCall, batch: RunningBatch) -> dict[str, Any]:
        """What the handler is called with."""
        whole = self._whole(arguments.model)
        keywords = dict(arguments.values) if whole is None else {whole: arguments.model}
        if self._taking.context is not None:
            kind = AsyncToolContext if is_async(self.handler) else ToolContext
            keywords[self._taking.context] = context_of(kind, call, batch)
        return keywords

    def replaced(self, arguments: Arguments, values: Mapping[str, Any]) -> Arguments:
        """Other values in the place of arguments that were read; they are not checked."""
        model = None if arguments.model is None else type(arguments.model).model_construct(**values)
        return Arguments(dict(values), model)

    def _whole(self, model: BaseModel | None) -> str | None:
        return None if model is None else self._taking.whole(type(model))

    def _source(self) -> Reader | JsonObject:
        if self._reader is not None:
            return self._reader
        schema = self.schema() if callable(self.schema) else self.schema
        if isinstance(schema, type) and issubclass(schema, BaseModel):
            return Reader(schema)
        if isinstance(schema, dict):
            return schema
        raise TypeError(f"tool {self.name!r}: a schema is a dict or a pydantic model, not {schema!r}")


def tool(function: Callable[..., Any]) -> Tool:
    """A function as a tool: its name, its docstring without the Args section, its parameters.

    Parameters are described by their types, their defaults, the docstring's Args section, and pydantic's `Field`.

    Raises:
        TypeError: it has no name, or cannot be described; says why.
    """
    behind = function.func if isinstance(function, partial) else function
    name = getattr(behind, "__name__", "")
    if not callable(function) or not name.isidentifier():
        raise TypeError(f"{function!r} has no name that a model could call it by; use Tool(name, description, handler)")
    return Tool(name, documented(function_behind(function))[0], function)


def as_tool(thing: Any) -> Tool:
    """A tool of what an app calls one: a `Tool`, an object whose `as_tool()` gives one, or a function.

    Raises:
        TypeError: it is none of these.
    """
    if isinstance(thing, Tool):
        return thing
    made = thing.as_tool() if hasattr(thing, "as_tool") else tool(thing)
    if not isinstance(made, Tool):
        raise TypeError(f"{thing!r} is no tool: give a function or a Tool")
    return made


def definitions_of(things: Iterable[Any]) -> list[ToolDefinition]:
    """How a provider is told of tools, of those that are enabled; definitions stand for themselves."""
    found: dict[str, ToolDefinition | None] = {}
    for thing in things:
        if isinstance(thing, ToolDefinition):
            found[thing.name] = thing
            continue
        made = as_tool(thing)
        found[made.name] = made.definition() if made.is_enabled else None
    return [definition for definition in found.values() if definition is not None]
