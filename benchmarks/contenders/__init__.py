"""Who resumes threads here. Each contender does the same work, as its own users would."""

from importlib import import_module
from typing import Any, Final, Protocol

from benchmarks.corpus import Message
from benchmarks.servers import Place

PHASES: Final = ("hydrate", "read", "parse", "append", "flush")


class Contender(Protocol):
    """One way to keep threads. The calls come in the order in which they stand here, many threads one after another."""

    def __init__(self, place: Place) -> None: ...

    def put_in_place(self, thread: str, messages: list[Message]) -> None:
        """Make a thread and put it away; not timed."""
        ...

    def hydrate(self, thread: str) -> None:
        """Bring it to where it can be worked on."""
        ...

    def read(self) -> Any:
        """All that is stored of the thread, as the store gives it."""
        ...

    def parse(self, stored: Any) -> list[Message]:
        """What `read` gave, as messages."""
        ...

    def append(self, messages: list[Message]) -> None:
        """One by one, each durable before the next."""
        ...

    def flush(self) -> None:
        """Put it away."""
        ...

    def contents(self, thread: str) -> list[Message]:
        """What is kept of a thread that was put away, found out with as little of the code above as can be."""
        ...

    def object_bytes(self, thread: str) -> int:
        """Bytes of its archive; 0 if it has none."""
        ...

    def close(self) -> None: ...


WHERE: Final[dict[str, tuple[str, str]]] = {
    "threadkeep": ("benchmarks.contenders.ours", "StorageLayer"),
    "threadkeep + catalog": ("benchmarks.contenders.ours", "WithCatalog"),
    "threadkeep session": ("benchmarks.contenders.ours", "WholeSession"),
    "seeds": ("benchmarks.contenders.seeds", "Seeds"),
    "RedisSession": ("benchmarks.contenders.agents_sdk", "InRedis"),
    "SQLAlchemySession": ("benchmarks.contenders.agents_sdk", "InPostgres"),
    "PostgresSaver": ("benchmarks.contenders.langgraph_savers", "Postgres"),
    "RedisSaver": ("benchmarks.contenders.langgraph_savers", "RedisStack"),
    "S3SessionManager": ("benchmarks.contenders.strands_sessions", "InS3"),
}
OURS: Final = ("threadkeep", "threadkeep + catalog", "threadkeep session")
PEERS: Final = ("RedisSession", "SQLAlchemySession", "PostgresSaver", "RedisSaver", "S3SessionManager")


def contender(name: str, place: Place) -> Contender:
    module, attribute = WHERE[name]
    made: Contender = getattr(import_module(module), attribute)(place)
    return made
