"""Every error that Threadkeep raises: what happened, what is safe, what to do. Whether to retry belongs to the type."""

from typing import ClassVar


class ThreadkeepError(Exception):
    """The base of all errors of this package.

    Arguments are kept in `args`, since Celery rebuilds errors from them; none of them ever carries message content.
    """

    retryable: ClassVar[bool] = False
    """Whether the same call may succeed later, unchanged."""


# --- what the caller sent -------------------------------------------------------------------------------------------


class InvalidThreadId(ThreadkeepError, ValueError):
    """A thread id or a namespace breaks one of the rules for names."""

    def __init__(self, half: str, shown: str, rule: str) -> None:
        super().__init__(half, shown, rule)
        self.half, self.shown, self.rule = half, shown, rule

    def __str__(self) -> str:
        return f"{self.half} {self.shown}: {self.rule}. Nothing was read or written."


class InvalidMessage(ThreadkeepError, ValueError):
    """A message, a state or a label cannot be kept as it is."""

    def __init__(self, field: str, shown: str, rule: str) -> None:
        super().__init__(field, shown, rule)
        self.field, self.shown, self.rule = field, shown, rule

    def __str__(self) -> str:
        return f"{self.field}: {self.shown}: {self.rule}. Nothing was written."


class InvalidAnswer(InvalidMessage):
    """A model's answer cannot be kept."""

    def __str__(self) -> str:
        where = f"the model's answer ({self.field}): {self.shown}: {self.rule}"
        return f"{where}. It was not stored; what stands before it is."


class MessageConflict(ThreadkeepError):
    """A message id is taken by a message with other content."""

    def __init__(self, thread: str, message_id: str) -> None:
        super().__init__(thread, message_id)
        self.thread, self.message_id = thread, message_id

    def __str__(self) -> str:
        return (
            f"thread {self.thread} already holds a message {self.message_id!r} with other content. "
            "Nothing was written. Use another id, or truncate first."
        )


class MessageNotFound(ThreadkeepError, LookupError):
    """No message of the thread has that id."""

    def __init__(self, thread: str, message_id: str) -> None:
        super().__init__(thread, message_id)
        self.thread, self.message_id = thread, message_id

    def __str__(self) -> str:
        return f"thread {self.thread} holds no message {self.message_id!r}; nothing was changed."


class FormatMismatch(ThreadkeepError):
    """A message of one codec was sent to a thread of another."""

    def __init__(self, thread: str, codec: str, fmt: str) -> None:
        super().__init__(thread, codec, fmt)
        self.thread, self.codec, self.fmt = thread, codec, fmt

    def __str__(self) -> str:
        return (
            f"thread {self.thread} keeps {self.codec!r} messages, this one is {self.fmt!r}; nothing was written. "
            "Fork the thread to change its codec."
        )


class UnknownCodec(ThreadkeepError, ValueError):
    """No codec has that name."""

    def __init__(self, name: str, known: str) -> None:
        super().__init__(name, known)
        self.name, self.known = name, known

    def __str__(self) -> str:
        return f"no codec is called {self.name!r}; there are {self.known}. Nothing was read or written."


class SdkMissing(ThreadkeepError, ImportError):
    """Native objects were asked for, and the framework that makes them is not installed."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(package, extra)
        self.package, self.extra = package, extra

    def __str__(self) -> str:
        return f"{self.package} is not installed; pip install 'threadkeep[{self.extra}]'. The thread is untouched."


class EmptyReply(ThreadkeepError):
    """A model answered with nothing that could be kept, as when its provider blocks an answer."""

    def __init__(self, stop: str) -> None:
        super().__init__(stop)
        self.stop = stop

    def __str__(self) -> str:
        return f"the model gave no message (it stopped for {self.stop or 'no stated reason'}); nothing was written."


class CacheWithoutName(ThreadkeepError, RuntimeError):
    """Gemini created a cache and did not say what it is called."""

    def __init__(self, model: str) -> None:
        super().__init__(model)
        self.model = model

    def __str__(self) -> str:
        return (
            f"Gemini created a context cache without a name for {self.model}. The model was not called and nothing was "
            "written; send the request as it was, without the cache."
        )


class SystemPromptMissing(ThreadkeepError, ValueError):
    """A system prompt was given, and it is blank."""

    def __init__(self, shown: str) -> None:
        super().__init__(shown)
        self.shown = shown

    def __str__(self) -> str:
        return f"the system prompt is {self.shown}: leave it out, or give it some text. Nothing was written."


class SettingsError(ThreadkeepError, ValueError):
    """A setting is missing, malformed or contradicts another."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.problem}. Nothing was started; see docs/reference/settings.md."


# --- the state of a thread ------------------------------------------------------------------------------------------


class ThreadNotFound(ThreadkeepError, LookupError):
    """The thread is neither in Redis nor in the archive."""

    def __init__(self, thread: str) -> None:
        super().__init__(thread)
        self.thread = thread

    def __str__(self) -> str:
        return f"thread {self.thread} is neither in Redis nor in the archive. Use new(), or open(create=True)."


class ThreadExists(ThreadkeepError):
    """A thread of that id is hot or archived already."""

    def __init__(self, thread: str, tier: str) -> None:
        super().__init__(thread, tier)
        self.thread, self.tier = thread, tier

    def __str__(self) -> str:
        return (
            f"thread {self.thread} exists already ({self.tier}); it was left as it is. "
            "Use open() to continue it, or overwrite=True to replace it."
        )


class ThreadBusy(ThreadkeepError):
    """Another session holds the thread's lease."""

    retryable = True

    def __init__(self, thread: str, seconds: float) -> None:
        super().__init__(thread, seconds)
        self.thread, self.seconds = thread, seconds

    def __str__(self) -> str:
        return (
            f"another session writes thread {self.thread}; its lease runs {self.seconds:.1f} s more, or is renewed. "
            "Nothing was changed. Pass wait=seconds to queue for it, or read() to look without writing."
        )


class LeaseLost(ThreadkeepError):
    """This session's lease expired or was taken over; it may write no more."""

    def __init__(self, thread: str) -> None:
        super().__init__(thread)
        self.thread = thread

    def __str__(self) -> str:
        return (
            f"this session no longer holds the lease of thread {self.thread}; this write was refused, "
            "all earlier ones are safe. Open the thread again and repeat what was refused."
        )


class SessionClosed(LeaseLost):
    """The session was left, or its `Threadkeep` closed."""

    def __str__(self) -> str:
        return f"this session of thread {self.thread} is closed; nothing was read or written. Open the thread again."


class RunGoingOn(ThreadkeepError):
    """A run holds the session: nothing else may write between its calls and their results."""

    def __init__(self, thread: str) -> None:
        super().__init__(thread)
        self.thread = thread

    def __str__(self) -> str:
        return (
            f"a run is going on in this session of thread {self.thread}; nothing was written. "
            "post() a message to it, or wait until it has ended."
        )


class ThreadErased(ThreadkeepError):
    """The thread is being erased."""

    def __init__(self, thread: str) -> None:
        super().__init__(thread)
        self.thread = thread

    def __str__(self) -> str:
        return (
            f"thread {self.thread} is being erased, or was since it was opened; nothing was written. "
            "Create it anew once the erase is done."
        )


class HotTierLost(ThreadkeepError):
    """Redis lost its memory or a part of it, or fell back: what is left is older than what was acknowledged."""

    def __init__(self, thread: str, acknowledged: int, found: int) -> None:
        super().__init__(thread, acknowledged, found)
        self.thread, self.acknowledged, self.found = thread, acknowledged, found

    def __str__(self) -> str:
        return (
            f"Redis lost what thread {self.thread} had gained lately: revision {self.acknowledged} was acknowledged, "
            f"what is left is revision {self.found}. Everything up to that is safe; append the rest again."
        )


# --- the stores -----------------------------------------------------------------------------------------------------


class StoreUnavailable(ThreadkeepError):
    """A store did not answer, or answered that it cannot now. The outcome of a write may be unknown."""

    retryable = True

    def __init__(self, store: str, operation: str, reason: str) -> None:
        super().__init__(store, operation, reason)
        self.store, self.operation, self.reason = store, operation, reason

    def __str__(self) -> str:
        reason = self.reason.rstrip(".")
        return f"{self.store} did not complete {self.operation}: {reason}. Repeating the same call is safe."


class AnswerGarbled(StoreUnavailable):
    """What a store sent does not have the checksum that it keeps of it: damaged on the way, or where it lies."""


class StoreRefused(ThreadkeepError):
    """A store answered that it will not: wrong credentials, no such bucket, no such table."""

    def __init__(self, store: str, operation: str, reason: str, remedy: str) -> None:
        super().__init__(store, operation, reason, remedy)
        self.store, self.operation, self.reason, self.remedy = store, operation, reason, remedy

    def __str__(self) -> str:
        reason = self.reason.rstrip(".")
        return f"{self.store} refused {self.operation}: {reason}. Nothing was lost or changed. {self.remedy}"


class StoreFull(StoreRefused):
    """Redis has no memory left for a write. What was acknowledged before is safe, and flushes go on."""

    retryable = True


class BrokerUnavailable(ThreadkeepError):
    """The broker took no message in time."""

    retryable = True

    def __init__(self, task: str, reason: str) -> None:
        super().__init__(task, reason)
        self.task, self.reason = task, reason

    def __str__(self) -> str:
        return (
            f"the broker did not take {self.task}: {self.reason}. The thread is safe in Redis; "
            "the sweep will archive it once the broker is back."
        )


class ArchiveMoved(ThreadkeepError):
    """A conditional write lost: the object is not the one it was based on."""

    def __init__(self, key: str) -> None:
        super().__init__(key)
        self.key = key

    def __str__(self) -> str:
        return f"{self.key} was changed by another writer; it was not overwritten. Look again, then decide."


class ArchiveCorrupt(ThreadkeepError):
    """The object in the bucket is not what was written there."""

    def __init__(self, thread: str, key: str, reason: str) -> None:
        super().__init__(thread, key, reason)
        self.thread, self.key, self.reason = thread, key, reason

    def __str__(self) -> str:
        told = f"{self.key}: {self.reason}; nothing was restored and the object was left as it is."
        remedy = f"`threadkeep verify --repair` brings thread {self.thread} back wherever a sound copy of it is left."
        return f"{told} {remedy}" if self.thread else told


class ArchiveTooNew(ArchiveCorrupt):
    """The object is in a format that this version of Threadkeep does not know."""

    def __str__(self) -> str:
        told = f"{self.key}: {self.reason}; nothing was restored and the object was left as it is."
        return f"{told} Update this installation of Threadkeep to read {self.thread or 'it'}."


class ArchiveFrozen(ThreadkeepError):
    """The object lies in a storage class that must be restored by hand before it can be read."""

    def __init__(self, key: str, storage_class: str) -> None:
        super().__init__(key, storage_class)
        self.key, self.storage_class = key, storage_class

    def __str__(self) -> str:
        return (
            f"{self.key} lies in {self.storage_class}; it is safe. Restore it with the store's own tools, then retry."
        )


# --- waiting --------------------------------------------------------------------------------------------------------


class HydrateTimeout(ThreadkeepError, TimeoutError):
    """No worker brought the thread back in time."""

    retryable = True

    def __init__(self, thread: str, seconds: float) -> None:
        super().__init__(thread, seconds)
        self.thread, self.seconds = thread, seconds

    def __str__(self) -> str:
        return (
            f"thread {self.thread} did not come back within {self.seconds:g} s; its archive is untouched. "
            "Are workers reading the hydrate queue? `threadkeep doctor` tells."
        )


class HydrateFailed(ThreadkeepError):
    """A worker tried to bring the thread back and could not; trying again alone will not help."""

    def __init__(self, thread: str, reason: str) -> None:
        super().__init__(thread, reason)
        self.thread, self.reason = thread, reason

    def __str__(self) -> str:
        return f"thread {self.thread} could not be brought back: {self.reason} Its archive was left as it is."


class FlushTimeout(ThreadkeepError, TimeoutError):
    """The archive did not catch up in time."""

    retryable = True

    def __init__(self, thread: str, seconds: float) -> None:
        super().__init__(thread, seconds)
        self.thread, self.seconds = thread, seconds

    def __str__(self) -> str:
        return (
            f"thread {self.thread} was not archived within {self.seconds:g} s; it is safe in Redis and will be "
            "archived by its queued flush or by the sweep."
        )
