"""What the apps say: a body that follows from the message's id, so that whoever finds one can tell if it is whole."""

import random
from typing import Any, Final

MARKER: Final = "kumquat-only-in-messages"
"""In every body, and to be found nowhere but in threads."""

_WORDS: Final = ("order", "parcel", "refund", "courier", "window", "address", "please", "thanks", "invoice", "late")
_LARGE: Final = 40_000


def body_of(message_id: str) -> dict[str, Any]:
    """The message of that id, some dozens of bytes to some ten thousand."""
    rng = random.Random(message_id)
    words = rng.choices(_WORDS, k=rng.randint(3, 60))
    if rng.random() < 0.02:
        words.append(rng.randbytes(_LARGE // 2).hex())
    text = f"{MARKER} {message_id} {' '.join(words)}"
    return {"role": rng.choice(("user", "assistant")), "content": text}
