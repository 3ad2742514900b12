"""As much of Redis's protocol (RESP2) as it takes to look after a server of ours, without a client library."""

import socket
from typing import Any, BinaryIO, Final

TIMEOUT: Final = 2.0


class ErrorReply(Exception):
    """The server answered with an error; its text is its message."""


def ask(host: str, port: int, password: str, *command: str | int) -> Any:
    """The reply to one command: text, an integer, None, or a list of these.

    Raises:
        OSError: no answer within two seconds, or the connection broke.
        ErrorReply: the server answered with an error.
    """
    with socket.create_connection((host, port), timeout=TIMEOUT) as link, link.makefile("rb") as replies:
        link.sendall(_packed("AUTH", password) + _packed(*command))
        _read(replies)
        return _read(replies)


def _packed(*words: str | int) -> bytes:
    encoded = [str(word).encode() for word in words]
    return b"*%d\r\n" % len(encoded) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded)


def _read(replies: BinaryIO) -> Any:
    line = replies.readline()
    if not line.endswith(b"\r\n"):
        raise ConnectionResetError("the server closed the connection")
    kind, text = line[:1], line[1:-2].decode()
    match kind:
        case b"+":
            return text
        case b"-":
            raise ErrorReply(text)
        case b":":
            return int(text)
        case b"$":
            return None if text == "-1" else replies.read(int(text) + 2)[:-2].decode()
        case b"*":
            return None if text == "-1" else [_read(replies) for _ in range(int(text))]
        case _:
            raise ErrorReply("it does not speak RESP")
