"""Passwords of the embedded servers: random, kept in the data directory, readable by its owner alone."""

import os
import secrets
from pathlib import Path


def kept_secret(path: Path) -> str:
    """The secret in the file; a new random one (32 hex digits) if there is none."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text()
    secret = secrets.token_hex(16)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret)
    return secret
