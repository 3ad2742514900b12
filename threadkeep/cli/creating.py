"""Makes a thread with all its messages in one step: staged first, then there as a whole, or not at all."""

import time

from threadkeep.cli.files import ParsedFile
from threadkeep.cli.stores import address, threads_of
from threadkeep.errors import StoreUnavailable, ThreadErased, ThreadExists
from threadkeep.model import ThreadRef, fresh_id, fresh_mark
from threadkeep.session.threads import Identity, Threads
from threadkeep.storage.hot import Created, Parts
from threadkeep.storage.link import run_now as now
from threadkeep.tasks.stores import Stores


def create_thread(
    stores: Stores,
    parsed: ParsedFile,
    *,
    thread_id: str | None,
    namespace: str | None,
    labels: dict[str, str],
    wait: float | None,
) -> ThreadRef:
    """Make the thread and queue its flush.

    Args:
        stores: Where to make it.
        parsed: What it holds.
        thread_id: Its id; the file's own, or else a random one, if not given.
        namespace: Its namespace; the file's own if that named the id too, or else the settings', if not given.
        labels: Its labels.
        wait: Seconds to wait until the archive holds it; None does not wait.

    Raises:
        ThreadExists: a thread of that id is hot or archived.
        InvalidMessage: a message, the state or a label cannot be kept; nothing was written.
    """
    settings, threads = stores.settings, threads_of(stores)
    own = parsed.namespace if thread_id is None else None
    chosen = thread_id or parsed.thread_id
    ref = address(settings, chosen or fresh_id(), namespace or own)
    parts = Identity(parsed.codec, parsed.state, labels, first=parsed.entries).parts(settings)
    made = _create(stores, threads, ref, parts, chosen=chosen is not None)
    if wait is not None and made.head is not None:
        now(threads.wait_archived(ref, made.head.rev, "linger", wait))
    return ref


def _create(stores: Stores, threads: Threads, ref: ThreadRef, parts: Parts, *, chosen: bool) -> Created:
    """Make it and let go of it; under a chosen id on the strength of a worker's word that there is none."""
    token, deadline = fresh_mark(), time.monotonic() + stores.settings.hydrate_wait
    while (left := deadline - time.monotonic()) > 0:
        ticket = _told_absent(threads, ref, left) if chosen else ""
        made = now(stores.hot.create(ref, token, parts, ticket=ticket, gen=fresh_mark()))
        match made.status:
            case "ok":
                _let_go(stores, threads, ref, token)
                return made
            case "exists":
                raise ThreadExists(str(ref), "hot")
            case "erasing":
                raise ThreadErased(str(ref))
    raise StoreUnavailable("Redis", f"making thread {ref}", "its ticket kept vanishing")


def _told_absent(threads: Threads, ref: ThreadRef, seconds: float) -> str:
    brought = now(threads.bring(ref, seconds))
    if brought.status == "here":
        raise ThreadExists(str(ref), "hot or archived")
    return brought.ticket


def _let_go(stores: Stores, threads: Threads, ref: ThreadRef, token: str) -> None:
    """Release the lease and queue the flush; if the broker is away, the sweep will."""
    flush_token = fresh_mark()
    if now(stores.hot.release(ref, token, "linger", flush_token)).status == "enqueue":
        now(threads.publish_flush(ref, "linger", flush_token))
