"""Strands Agents' `S3SessionManager`: an object in S3 for each message. Nothing is to be put away."""

from typing import Any

import boto3
from botocore.config import Config
from strands.session.s3_session_manager import S3SessionManager
from strands.types.session import SessionAgent, SessionMessage

from benchmarks.corpus import Message
from benchmarks.servers import Place

AGENT = "agent"


class InS3:
    """One manager a resumed thread, as its users make it; the boto3 session, which holds what is slow, is shared."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._boto = boto3.Session(place.s3_access_key, place.s3_secret_key, region_name="us-east-1")
        self._manager: Any = None
        self._next = 0

    def put_in_place(self, thread: str, messages: list[Message]) -> None:
        self._manager, self._next = self._open(thread), 0
        self._manager.create_agent(thread, SessionAgent(AGENT, {}, {}))
        self.append(messages)

    def hydrate(self, thread: str) -> None:
        self._manager = self._open(thread)
        if self._manager.read_agent(thread, AGENT) is None:
            raise AssertionError("the session does not exist")

    def read(self) -> list[Message]:
        found = self._manager.list_messages(self._manager.session_id, AGENT)
        self._next = len(found)
        return [each.to_message() for each in found]

    def parse(self, stored: list[Message]) -> list[Message]:
        return stored

    def append(self, messages: list[Message]) -> None:
        for message in messages:
            stored = SessionMessage.from_message(message, self._next)
            self._manager.create_message(self._manager.session_id, AGENT, stored)
            self._next += 1

    def flush(self) -> None: ...

    def contents(self, thread: str) -> list[Message]:
        return [each.to_message() for each in self._open(thread).list_messages(thread, AGENT)]

    def object_bytes(self, thread: str) -> int:  # noqa: ARG002
        return 0

    def close(self) -> None: ...

    def _open(self, thread: str) -> Any:
        place = self._place
        return S3SessionManager(
            thread,
            place.s3_bucket,
            boto_session=self._boto,
            boto_client_config=Config(s3={"addressing_style": "path"}),
            endpoint_url=place.s3_endpoint,
        )
