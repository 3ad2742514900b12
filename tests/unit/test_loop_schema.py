"""A model is told of a function by its signature and docstring, and its arguments come back in the right types."""

import enum
import functools
import inspect
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from billiard.exceptions import SoftTimeLimitExceeded
from pydantic import BaseModel, ConfigDict, Field, field_validator

from threadkeep.session.codecs.base import ToolCall, ToolDefinition
from threadkeep.session.loop.context import AsyncToolContext, BatchFacts, RunningBatch, ToolContext
from threadkeep.session.loop.schema import InvalidToolCall
from threadkeep.session.loop.state import State
from threadkeep.session.loop.tools import Tool, as_tool, definitions_of, tool

if TYPE_CHECKING:
    from collections.abc import Hashable


class Level(enum.StrEnum):
    LOW = "low"
    HIGH = "high"


class Place(BaseModel):
    city: str
    zip_code: str = Field("", alias="zip")


@dataclass
class Span:
    start: date
    days: int = 1


async def save():
    """What a batch saves with."""


FACTS = BatchFacts("t", "messages", "r", "a", State(), save)
CALL = ToolCall("c1", "any", {})


def keywords(made, args):
    """What the handler of a tool would be called with."""
    return as_tool(made).keywords(as_tool(made).read(args), CALL, RunningBatch(FACTS, None, 1))


def problem(made, args):
    with pytest.raises(InvalidToolCall) as caught:
        as_tool(made).read(args)
    return str(caught.value)


# --- what a model is told -------------------------------------------------------------------------------------------


def forecast(
    place: Place,
    days: int = 3,
    *,
    unit: Literal["c", "f"] = "c",
    level: Annotated[Level, Field(description="How sure.")] = Level.LOW,
    tags: list[str] | None = None,
    limit: Annotated[int, Field(ge=1, le=9)] = 5,
    anything=None,
) -> str:
    """Tells the weather.

    Rather well.

    Args:
        place: Where, as exactly
            as you can.
        days (int): How many days.
        level: Not this one.
        limit: At most so many lines.

    Returns:
        Text.
    """


def test_a_function_is_described_by_its_signature_and_docstring():
    definition = tool(forecast).definition()
    assert (definition.name, definition.description) == ("forecast", "Tells the weather.\n\nRather well.")
    assert definition.schema == {
        "type": "object",
        "properties": {
            "place": {"$ref": "#/$defs/Place", "description": "Where, as exactly as you can."},
            "days": {"type": "integer", "default": 3, "description": "How many days."},
            "unit": {"enum": ["c", "f"], "type": "string", "default": "c"},
            "level": {"$ref": "#/$defs/Level", "default": "low", "description": "How sure."},
            "tags": {"anyOf": [{"items": {"type": "string"}, "type": "array"}, {"type": "null"}], "default": None},
            "limit": {
                "type": "integer",
                "minimum": 1,
                "maximum": 9,
                "default": 5,
                "description": "At most so many lines.",
            },
            "anything": {"default": None},
        },
        "required": ["place"],
        "additionalProperties": False,
        "$defs": {
            "Place": {
                "title": "Place",
                "type": "object",
                "properties": {"city": {"type": "string"}, "zip": {"type": "string", "default": ""}},
                "required": ["city"],
            },
            "Level": {"title": "Level", "type": "string", "enum": ["low", "high"]},
        },
    }


def test_a_function_without_parameters_takes_an_empty_object():
    def now():
        return "noon"

    assert tool(now).definition() == ToolDefinition(
        "now", "", {"type": "object", "properties": {}, "additionalProperties": False}
    )
    assert keywords(now, None) == keywords(now, {}) == {}


def test_a_parameter_may_be_called_like_something_of_pydantics():
    def save(schema: str, model_config: int, _private: bool, json: dict, self_: str, function: str):
        pass

    args = {"schema": "s", "model_config": 1, "_private": True, "json": {}, "self_": "x", "function": "f"}
    assert list(tool(save).definition().schema["properties"]) == list(args)
    assert keywords(save, args) == args
    assert problem(save, {**args, "_private": "maybe"}).startswith("_private: ")


def test_a_default_that_is_a_field_is_honoured():
    def search(text: str = Field(min_length=2, description="What."), limit: int = Field(7, le=9)):
        pass

    schema = tool(search).definition().schema
    assert schema["properties"]["text"] == {"type": "string", "minLength": 2, "description": "What."}
    assert schema["required"] == ["text"]
    assert keywords(search, {"text": "ab"}) == {"text": "ab", "limit": 7}


def test_an_alias_of_the_apps_own_is_what_the_model_is_told():
    def search(text: Annotated[str, Field(alias="search-text")], limit: int = Field(7, alias="max")):
        pass

    assert list(tool(search).definition().schema["properties"]) == ["search-text", "max"]
    assert keywords(search, {"search-text": "ab", "max": 3}) == {"text": "ab", "limit": 3}


def test_a_default_that_is_no_json_is_left_out_of_the_schema_and_used_all_the_same():
    class Unlimited:
        """A mark."""

    mark = Unlimited()

    def look(limit: Any = mark):
        pass

    assert tool(look).definition().schema["properties"] == {"limit": {}}
    assert isinstance(keywords(look, {})["limit"], Unlimited)


def test_annotations_may_be_text():
    def look(ctx: "ToolContext", place: "Place", spans: "list[Span]" = ()) -> "Nowhere":  # noqa: F821
        pass

    args = keywords(look, {"place": {"city": "Ulm"}, "spans": [{"start": "2026-01-02"}]})
    assert (args["place"], args["spans"]) == (Place(city="Ulm"), [Span(date(2026, 1, 2))])
    assert isinstance(args["ctx"], ToolContext)


def test_a_context_may_be_imported_for_type_checkers_alone():
    source = (
        "def look(run: 'ToolContext', n: 'int'): pass\n"
        "async def look_async(run: 'AsyncToolContext', n: 'int'): pass\n"
        "def named(ctx: 'elsewhere.Context', n: int): pass\n"
    )
    made = {}
    exec(source, made)
    assert isinstance(keywords(made["look"], {"n": "1"})["run"], ToolContext)
    assert isinstance(keywords(made["look_async"], {"n": "1"})["run"], AsyncToolContext)
    assert isinstance(keywords(made["named"], {"n": "1"})["ctx"], ToolContext)


def test_a_method_a_partial_and_an_object_are_described_by_what_is_left_to_give():
    class Store:
        def find(self, key: str):
            """Finds."""
            return key

        def __call__(self, key: int):
            """Calls."""

    def lookup(table: str, key: str, limit: int = 1):
        """Looks up.

        Args:
            key: Which.
        """

    bound = functools.partial(lookup, "users", limit=5)
    assert tool(Store().find).definition().description == "Finds."
    assert list(tool(Store().find).definition().schema["properties"]) == ["key"]
    assert tool(bound).definition().name == "lookup"
    assert tool(bound).definition().schema["properties"] == {"key": {"type": "string", "description": "Which."}}
    assert keywords(bound, {"key": "k"}) == {"key": "k"}
    assert keywords(Tool("call", "", Store()), {"key": "5"}) == {"key": 5}


def test_a_decorated_function_is_described_by_the_one_inside():
    def logged(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs)

        return wrapper

    @logged
    def find(key: "Level", ctx):
        """Finds."""

    assert keywords(find, {"key": "high"})["key"] is Level.HIGH
    assert tool(find).definition().description == "Finds."


@pytest.mark.parametrize(
    ("docstring", "text", "told"),
    [
        (None, "", {}),
        ("One line.", "One line.", {}),
        ("Text.\n\nArgs:\n    a: First.\n    b (str, optional): Second: part\n        goes on.\n", "Text.", 2),
        ("Text.\n\nReturns:\n    b: not this.\n\nArguments:\n    a: First.\n    b: Second: part goes on.", "Text.", 2),
        ("Args:\n    a: First.\n\n    b: Second: part goes on.\nRaises:\n    a: No.", "", 2),
        ("Text.\n\nArgs:\n\nMore text.\n    a: No.", "Text.", {}),
        ("Text.\n\nArgs:\n    (nonsense)\n    a:\n        First.\n    b: Second: part goes on.", "Text.", 2),
    ],
)
def test_a_docstring_is_read_as_google_writes_it(docstring, text, told):
    def look(a, b):
        pass

    look.__doc__ = docstring
    definition = tool(look).definition()
    descriptions = {name: about["description"] for name, about in definition.schema["properties"].items() if about}
    assert definition.description == text
    assert descriptions == (told or {} if told != 2 else {"a": "First.", "b": "Second: part goes on."})


# --- what is refused at once ----------------------------------------------------------------------------------------


def star(*names):
    pass


def stars(**options):
    pass


def positional(a, /):
    pass


def connected(connection: inspect.Signature):
    pass


def nowhere(a: "Hashable"):
    pass


def callback(done: "type(print)"):
    pass


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (star, r"tool 'star': \*names cannot be described"),
        (stars, r"tool 'stars': \*\*options cannot be described"),
        (positional, "tool 'positional': 'a' is positional-only"),
        (connected, "tool 'connected': its parameters cannot be described: .*Signature"),
        (nowhere, "tool 'nowhere': the type of 'a' cannot be told: name 'Hashable' is not defined; import it"),
        (callback, "tool 'callback': its parameters cannot be described"),
        (Place, "tool 'Place': .* is no function"),
        (lambda: None, "has no name that a model could call it by"),
        (max, "tool 'max': its parameters cannot be told"),
        ("text", "has no name"),
        (42, "has no name"),
    ],
)
def test_a_function_that_cannot_be_described_is_refused_when_it_is_registered(function, told):
    with pytest.raises(TypeError, match=told):
        as_tool(function)


def test_an_object_whose_as_tool_gives_something_else_is_refused():
    class Odd:
        def as_tool(self):
            return "a tool"

    with pytest.raises(TypeError, match="is no tool"):
        as_tool(Odd())


def test_a_handler_that_does_not_take_what_its_model_gives_is_refused():
    with pytest.raises(TypeError, match="does not take what its schema gives: missing a required argument: 'town'"):
        Tool("look", "", lambda town, city, zip_code: None, Place)
    with pytest.raises(TypeError, match="got an unexpected keyword argument 'zip_code'"):
        Tool("look", "", lambda city: None, Place)


# --- what comes back ------------------------------------------------------------------------------------------------


def test_arguments_come_in_the_types_of_the_signature():
    def book(place: Place, span: Span, level: Level, nights: int, ctx, extra=None):
        pass

    args = {"place": {"city": "Ulm", "zip": "1"}, "span": {"start": "2026-01-02"}, "level": "high", "nights": "2"}
    taken = keywords(book, args)
    assert isinstance(taken.pop("ctx"), ToolContext)
    assert taken == {
        "place": Place(city="Ulm", zip="1"),
        "span": Span(date(2026, 1, 2)),
        "level": Level.HIGH,
        "nights": 2,
        "extra": None,
    }


def test_a_model_is_told_each_thing_that_does_not_fit_and_nothing_more():
    told = problem(forecast, {"place": {"city": 5}, "days": "many", "unit": "k", "colour": "red"})
    assert told == (
        "place.city: Input should be a valid string; "
        "days: Input should be a valid integer, unable to parse string as an integer; "
        "unit: Input should be 'c' or 'f'; "
        "colour: Extra inputs are not permitted"
    )


def test_a_model_is_not_told_of_more_faults_than_it_can_use():
    def total(amounts: list[int]):
        pass

    assert problem(total, {"amounts": ["x"] * 25}).endswith("; and 15 more")


@pytest.mark.parametrize("args", ["text", [1], 5, True])
@pytest.mark.parametrize("schema", [None, {"type": "object"}, Place])
def test_arguments_that_are_no_object_are_refused(args, schema):
    made = Tool("look", "", lambda city="", zip_code="": None, schema)
    assert problem(made, args) == "the arguments must be an object"


def test_a_json_schema_hands_arguments_on_as_they_come():
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}}
    made = Tool("count", "Counts", lambda n, ctx, more="": None, schema)
    given = {"n": "5"}
    assert keywords(made, given).pop("n") == "5"
    assert problem(made, {}) == "missing a required argument: 'n'"
    assert problem(made, {"n": 1, "m": 2}) == "got an unexpected keyword argument 'm'"
    assert problem(made, {"n": 1, "ctx": 2}) == "got an unexpected keyword argument 'ctx'"
    definition = made.definition()
    definition.schema["properties"].clear()
    assert made.definition().schema["properties"] == {"n": {"type": "integer"}}


def test_a_json_schema_may_feed_a_handler_that_takes_anything():
    made = Tool("any", "", lambda ctx, **options: None, {"type": "object"})
    taken = keywords(made, {"a": 1, "ctx": "mine"})
    assert (taken["a"], type(taken["ctx"])) == (1, ToolContext)


def test_arguments_share_nothing_with_what_the_model_said():
    given = {"n": {"list": [1]}}
    for made in (Tool("any", "", lambda n: None, {"type": "object"}), Tool("any", "", lambda n: None)):
        keywords(made, given)["n"]["list"].append(2)
    assert given == {"n": {"list": [1]}}


def test_a_pydantic_model_checks_and_its_fields_come_by_name():
    made = Tool("look", "", lambda city, zip_code: None, Place)
    assert made.definition().schema == {
        "type": "object",
        "properties": {"city": {"type": "string"}, "zip": {"type": "string", "default": ""}},
        "required": ["city"],
    }
    assert keywords(made, {"city": "Ulm", "zip": "1"}) == {"city": "Ulm", "zip_code": "1"}
    assert problem(made, {}) == "city: Field required"


def test_a_pydantic_model_that_takes_more_hands_on_more():
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        a: int

    assert keywords(Tool("look", "", lambda **all: None, Open), {"a": "1", "b": 2}) == {"a": 1, "b": 2}
    assert problem(Tool("look", "", lambda a: None, Open), {"a": 1, "b": 2}) == "got an unexpected keyword argument 'b'"


def test_a_pydantic_model_comes_whole_if_the_handler_takes_it():
    def look(place: Place, ctx: ToolContext):
        pass

    taken = keywords(Tool("look", "", look, Place), {"city": "Ulm"})
    assert (taken["place"], type(taken["ctx"])) == (Place(city="Ulm"), ToolContext)


def test_a_check_of_the_apps_own_that_breaks_makes_the_call_invalid():
    class Coded(BaseModel):
        code: str

        @field_validator("code")
        @classmethod
        def known(cls, code):
            return {"a": 1}[code]

    assert problem(Tool("look", "", lambda code: None, Coded), {"code": "b"}) == "the arguments could not be checked"


def test_a_check_of_the_apps_own_that_is_asked_to_stop_stops():
    class Coded(BaseModel):
        code: str

        @field_validator("code")
        @classmethod
        def known(cls, code):
            raise SoftTimeLimitExceeded

    with pytest.raises(SoftTimeLimitExceeded):
        Tool("look", "", lambda code: None, Coded).read({"code": "b"})


# --- what may change from turn to turn ------------------------------------------------------------------------------


def test_description_schema_and_enabled_may_be_functions_asked_anew_each_time():
    now = {"description": "one", "schema": {"type": "object"}, "enabled": True}
    made = Tool("look", lambda: now["description"], lambda city="", zip_code="": None, lambda: now["schema"])
    switched = Tool("other", "", lambda: None, enabled=lambda: now["enabled"])
    assert made.definition() == ToolDefinition("look", "one", {"type": "object"})
    assert switched.is_enabled
    now.update(description="two", schema=Place, enabled=False)
    assert made.definition().description == "two"
    assert made.definition().schema["required"] == ["city"]
    assert keywords(made, {"city": "Ulm"}) == {"city": "Ulm", "zip_code": ""}
    assert not switched.is_enabled
    now["schema"] = "nonsense"
    with pytest.raises(TypeError, match="a schema is a dict or a pydantic model, not 'nonsense'"):
        made.definition()


def test_definitions_are_made_of_whatever_is_a_tool():
    def find(key: str):
        """Finds."""

    given = ToolDefinition("given", "As it is", {"type": "object"}, strict=True)
    made = definitions_of([find, given, Tool("off", "", find, enabled=False), Tool("find", "Finds better", find)])
    assert [(each.name, each.description) for each in made] == [("find", "Finds better"), ("given", "As it is")]
    assert made[1] is given
