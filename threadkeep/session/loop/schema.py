"""How a tool's arguments are described to a model and read back: from a signature, a pydantic model, a JSON Schema."""

import inspect
import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from inspect import Parameter, Signature
from types import SimpleNamespace
from typing import Annotated, Any, Final, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic.json_schema import GenerateJsonSchema

from threadkeep.model import JsonObject
from threadkeep.session.loop.calling import is_cancellation
from threadkeep.session.loop.context import AsyncToolContext, ToolContext

CONTEXT: Final = "ctx"
"""The name of a handler's parameter for its context; the annotation does as well."""
MAX_PROBLEMS: Final = 10
"""Faults of one call that a model is told of; more would not help it."""

_CONTEXTS: Final = {"ToolContext": ToolContext, "AsyncToolContext": AsyncToolContext}
_SECTION: Final = re.compile(r"(Args|Arguments|Parameters|Returns|Yields|Raises):\s*$")
_PARAMETER: Final = re.compile(r"\*{0,2}(\w+)\s*(?:\(.*?\))?:\s*(.*)$")


class InvalidToolCall(Exception):
    """A call that must not be run; the message is for the model."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """What a call's arguments came to.

    Attributes:
        values: By name, as the handler takes them.
        model: The same as the pydantic model that checked them, where there is one of the app's.
    """

    values: dict[str, Any]
    model: BaseModel | None = None


class Reader:
    """A pydantic model that describes and checks arguments.

    Args:
        model: The model.
        names: The handler's name of each field's argument; the field's own if not given.
    """

    def __init__(self, model: type[BaseModel], names: Mapping[str, str] | None = None) -> None:
        self.model = model
        self._derived_names = names

    @property
    def names(self) -> Mapping[str, str]:
        return self._derived_names or {name: name for name in self.model.model_fields}

    def schema(self) -> JsonObject:
        """JSON Schema without the titles that pydantic makes of names: a model has the names already."""
        described = self.model.model_json_schema(schema_generator=_Untitled)
        described.pop("title", None)
        return described

    def read(self, args: JsonObject) -> Arguments:
        """Arguments of the right types.

        Raises:
            InvalidToolCall: names what does not fit.
        """
        try:
            model = self.model.model_validate(args)
        except ValidationError as error:
            raise InvalidToolCall(_problems(error)) from error
        except Exception as error:
            if is_cancellation(error):
                raise
            raise InvalidToolCall("the arguments could not be checked") from error
        values = {name: getattr(model, key) for key, name in self.names.items()}
        return Arguments({**values, **(model.model_extra or {})}, model if self._derived_names is None else None)


class Taking:
    """What a handler takes from whoever calls it.

    Attributes:
        context: The parameter for the context; None if it takes none.

    Raises:
        TypeError: it cannot be called with keywords alone.
    """

    def __init__(self, handler: Callable[..., Any], tool: str) -> None:
        self._tool = tool
        self._function = function_behind(handler)
        signature = _signature(handler, tool)
        fixed = handler.keywords if isinstance(handler, partial) else {}
        self._hints = _hints(self._function)
        self.context = next((name for name in signature.parameters if self._is_context(name)), None)
        taken = [each for name, each in signature.parameters.items() if name != self.context and name not in fixed]
        self._signature = Signature(taken)
        for each in taken:
            if each.kind is Parameter.POSITIONAL_ONLY:
                raise self._refused(f"{each.name!r} is positional-only, but arguments come by name")

    def whole(self, model: type[BaseModel]) -> str | None:
        """The handler's only parameter, if it takes the model itself."""
        names = list(self._signature.parameters)
        return names[0] if len(names) == 1 and self._hint(names[0]) is model else None

    def check(self, values: Mapping[str, Any]) -> None:
        """Whether a call with these keywords would reach the handler.

        Raises:
            InvalidToolCall: one too many or too few.
        """
        try:
            self._signature.bind(**values)
        except TypeError as error:
            raise InvalidToolCall(str(error)) from error

    def reader(self, descriptions: Mapping[str, str]) -> Reader:
        """Describes the parameters as the signature does.

        Raises:
            TypeError: a parameter that has no place in an object, or a type that pydantic does not know.
        """
        parameters = list(self._signature.parameters.values())
        for each in parameters:
            if each.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD):
                stars = "*" if each.kind is Parameter.VAR_POSITIONAL else "**"
                raise self._refused(f"{stars}{each.name} cannot be described to a model; name each parameter")
        fields = {f"p{place}": self._field(each, descriptions.get(each.name)) for place, each in enumerate(parameters)}
        names = {f"p{place}": each.name for place, each in enumerate(parameters)}
        return self._modelled(fields, names)

    def _modelled(self, fields: dict[str, Any], names: dict[str, str]) -> Reader:
        """Fields have names of their own, and the parameters' as aliases: those might be pydantic's, as `schema` is."""
        try:
            reader = Reader(create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields), names)
            reader.schema()
        except PydanticUserError as error:
            raise self._refused(f"its parameters cannot be described: {error}") from error
        return reader

    def _field(self, parameter: Parameter, description: str | None) -> tuple[Any, Any]:
        hint = _described(self._hint(parameter.name), parameter.name, description)
        return hint, ... if parameter.default is Parameter.empty else parameter.default

    def _hint(self, name: str) -> Any:
        hint = self._hints.get(name, Any)
        if isinstance(hint, NameError):
            raise self._refused(f"the type of {name!r} cannot be told: {hint}; import it where the program runs")
        return hint

    def _is_context(self, name: str) -> bool:
        return name == CONTEXT or self._hints.get(name) in _CONTEXTS.values()

    def _refused(self, reason: str) -> TypeError:
        return TypeError(f"tool {self._tool!r}: {reason}")


def function_behind(handler: Callable[..., Any]) -> Any:
    """The function that bears a handler's annotations and docstring."""
    while isinstance(handler, partial):
        handler = handler.func
    return inspect.unwrap(handler if inspect.isroutine(handler) else handler.__call__)  # type: ignore[operator]


def documented(function: Any) -> tuple[str, dict[str, str]]:
    """A docstring's text before its sections, and what its Args section says of each parameter."""
    lines = (inspect.getdoc(function) or "").splitlines()
    starts = [at for at, line in enumerate(lines) if _SECTION.match(line)]
    text = lines[: starts[0]] if starts else lines
    for start in starts:
        if lines[start].startswith(("Args", "Arguments", "Parameters")):
            return "\n".join(text).strip(), _parameters(lines[start + 1 :])
    return "\n".join(text).strip(), {}


def _parameters(lines: list[str]) -> dict[str, str]:
    """Texts by name. A parameter begins at the indentation of the first one; its text may go on further in."""
    texts: dict[str, list[str]] = {}
    indent: int | None = None
    name = None
    for line in lines:
        depth = len(line) - len(line.lstrip())
        if not line.strip():
            continue
        if depth == 0:
            break
        indent = depth if indent is None else indent
        begins = _PARAMETER.match(line.strip()) if depth == indent else None
        if begins is not None:
            name = begins[1]
            texts[name] = [begins[2]]
        elif name is not None:
            texts[name].append(line.strip())
    return {name: " ".join(filter(None, text)) for name, text in texts.items()}


def _signature(handler: Callable[..., Any], tool: str) -> Signature:
    if not callable(handler) or inspect.isclass(handler):
        raise TypeError(f"tool {tool!r}: {handler!r} is no function")
    try:
        return inspect.signature(handler)
    except (NameError, ValueError) as error:
        raise TypeError(f"tool {tool!r}: its parameters cannot be told: {error}") from error


def _hints(function: Any) -> dict[str, Any]:
    """Types of parameters; a `NameError` for one that cannot be told, as where it is imported for type checkers only.

    A context may be imported so: it is known here.
    """
    hints: dict[str, Any] = {}
    for name, annotation in getattr(function, "__annotations__", {}).items():
        alone = SimpleNamespace(__annotations__={name: annotation})
        try:
            hints |= get_type_hints(alone, getattr(function, "__globals__", {}), dict(_CONTEXTS), include_extras=True)
        except NameError as error:
            hints[name] = error
    return hints


def _described(hint: Any, name: str, description: str | None) -> Any:
    """A type with a name and a description; those that it bears already count more."""
    annotated: Any = Annotated
    bare, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    return annotated[(bare, Field(alias=name, description=description), *extras)]


def _problems(error: ValidationError) -> str:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{'.'.join(map(str, each['loc'])) or 'arguments'}: {each['msg']}" for each in found[:MAX_PROBLEMS]]
    if len(found) > MAX_PROBLEMS:
        told.append(f"and {len(found) - MAX_PROBLEMS} more")
    return "; ".join(told)


class _Untitled(GenerateJsonSchema):
    ignored_warning_kinds = frozenset({"skipped-choice", "non-serializable-default"})  # type: ignore[assignment]

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002
        return False


def checked_object(args: Any) -> JsonObject:
    """A copy of a call's arguments; none are an empty object.

    Raises:
        InvalidToolCall: they are something else.
    """
    if args is None:
        return {}
    if not isinstance(args, dict):
        raise InvalidToolCall("the arguments must be an object")
    return deepcopy(args)
