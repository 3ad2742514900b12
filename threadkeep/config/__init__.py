"""One frozen `Settings` from `THREADKEEP_*` variables; nothing else of the package reads the environment."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from threadkeep.errors import SettingsError

Seconds = Annotated[float, Field(gt=0)]
MaybeSeconds = Annotated[float, Field(ge=0)]
Bytes = Annotated[int, Field(gt=0)]

_MIB = 1024 * 1024

LARGEST_MESSAGE: Final = 256 * _MIB
"""Bytes that `max_message_bytes` may be set to, at most; part of what a reader of archives relies on."""


class Settings(BaseSettings):
    """All settings. Each is read from `THREADKEEP_<NAME>`; its description states the unit.

    Raises:
        SettingsError: from `load`, naming each setting that is malformed or contradicts another.
    """

    model_config = SettingsConfigDict(env_prefix="THREADKEEP_", frozen=True, extra="forbid")

    # --- Redis: the hot tier ---
    redis_url: str = Field(
        "redis://127.0.0.1:6379/0", repr=False, description="Hot tier; `redis://`, `rediss://` or `unix://`."
    )
    redis_cluster: bool = Field(
        default=False,
        description="The hot tier is a Redis Cluster; `redis_url` names one server of it, or several: "
        "`redis://one:6379,two:6379`.",
    )
    redis_timeout: Seconds = Field(
        5.0, description="Seconds that one command of the hot tier may take, or a cluster's failover under it."
    )
    redis_connect_timeout: Seconds = Field(2.0, description="Seconds to connect to the hot tier.")
    redis_max_connections: int = Field(
        64, ge=1, description="Connections of one process to the hot tier, or to each server of a cluster, at most."
    )
    key_prefix: str = Field(
        "threadkeep",
        pattern=r"^[A-Za-z0-9_.-]{1,40}$",
        description="What every key of the hot tier starts with.",
    )

    # --- broker ---
    broker_url: str = Field(
        "redis://127.0.0.1:6379/1", repr=False, description="Celery's broker: `redis://…` or `amqp://…`."
    )
    broker_prefix: str = Field("threadkeep-broker:", description="What every key of a Redis broker starts with.")
    broker_timeout: Seconds = Field(
        2.0, description="Seconds that an app waits for the broker to take a task, at most."
    )

    # --- S3: the cold tier ---
    s3_bucket: str = Field(
        "threadkeep", min_length=3, max_length=63, description="Bucket of the archive; it must exist."
    )
    s3_prefix: str = Field("threads", description="What every object's key starts with; no slash at either end.")
    s3_endpoint: str | None = Field(default=None, description="Endpoint URL of an S3-compatible store; unset for AWS.")
    s3_copied_parts: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Whether flushes of large threads keep the stored bytes where they are, as a copied part of a "
        "multipart upload. `on` only for a store that looks at If-Match and completes an upload in one step, which no "
        "trial shows; `auto`: on AWS.",
    )
    s3_engine: Literal["auto", "boto3", "obstore"] = Field(
        "auto",
        description="What sends the requests that flushes and hydrates are made of; all else is boto3's. `auto` is "
        "obstore where it is installed (`threadkeep[obstore]`).",
    )
    s3_region: str | None = Field(default=None, description="Region; unset to take the AWS SDK's own.")
    s3_access_key: SecretStr | None = Field(
        default=None, description="Access key id; unset to use the AWS SDK's own chain (roles, profiles)."
    )
    s3_secret_key: SecretStr | None = Field(
        default=None, description="Secret access key; set together with the access key id."
    )
    s3_session_token: SecretStr | None = Field(default=None, description="Session token of temporary credentials.")
    s3_addressing: Literal["auto", "path", "virtual"] = Field("auto", description="How the bucket enters the URL.")
    s3_connect_timeout: Seconds = Field(3.0, description="Seconds to connect to S3.")
    s3_read_timeout: Seconds = Field(
        10.0, description="Seconds without a byte from S3 before a request counts as failed."
    )
    s3_retry_mode: Literal["standard", "adaptive"] = Field(
        "standard",
        description="The AWS SDK's retry mode: the one layer in which S3 requests are retried. `adaptive` is boto3's.",
    )
    s3_attempts: int = Field(3, ge=1, le=10, description="Attempts of one S3 request, the first included.")
    s3_max_connections: int = Field(16, ge=1, description="Connections of one process to S3, at most.")
    s3_storage_class: str | None = Field(
        default=None,
        description="Storage class of archived objects, such as `STANDARD_IA`; unset for the bucket's own.",
    )
    s3_sse: Literal["AES256", "aws:kms"] | None = Field(
        default=None, description="Server-side encryption: `AES256` (SSE-S3) or `aws:kms` (SSE-KMS)."
    )
    s3_sse_kms_key: str | None = Field(default=None, description="KMS key id or ARN; only with `aws:kms`.")
    s3_tags: Annotated[dict[str, str], NoDecode] = Field(
        default_factory=dict, description="Tags of each object, as `name=value,name=value`."
    )
    s3_checksum: Literal["CRC32", "SHA256"] | None = Field(
        "CRC32",
        description="Checksum that the store verifies on upload; empty for none. obstore sends `CRC32` as the SHA-256 "
        "that every request is signed with.",
    )
    conditional_writes: Literal["on", "off"] = Field(
        "on", description="`off` for stores without If-Match: one immutable object per revision."
    )
    v1_fallback: bool = Field(
        default=False, description="On a miss, look for an archive that zeitlich (snapshot version 1) wrote."
    )

    # --- Postgres: the catalog ---
    database_url: SecretStr = Field(
        SecretStr("postgresql+psycopg://127.0.0.1:5432/threadkeep"), description="Catalog; a SQLAlchemy URL."
    )
    database_pool: int = Field(5, ge=1, description="Connections of one process to the catalog, at most.")
    database_timeout: Seconds = Field(
        5.0, description="Seconds to connect to the catalog, and that one statement may take."
    )
    events_keep_days: int = Field(90, ge=1, description="Days that audit events are kept.")

    # --- threads ---
    namespace: str = Field("messages", description="Namespace of threads for which none is named.")
    max_message_bytes: Bytes = Field(
        8 * _MIB, le=LARGEST_MESSAGE, description="Bytes of one message as stored JSON, at most."
    )
    max_append_bytes: Bytes = Field(
        64 * _MIB, le=512 * _MIB, description="Bytes of one append of several messages, at most."
    )
    max_append_messages: int = Field(
        1000,
        ge=1,
        le=5000,
        description="Messages of one append, at most: each append is one step for Redis, and may not hold it up.",
    )
    max_state_bytes: Bytes = Field(256 * 1024, le=4 * _MIB, description="Bytes of a thread's state as JSON, at most.")
    max_thread_bytes: Bytes = Field(
        2048 * _MIB,
        description="Bytes of records that an archive may decompress to, at most; larger is refused as a bomb.",
    )
    max_archive_ratio: int = Field(
        1000,
        ge=1,
        description="Bytes that one compressed byte of an archive may become, at most, where a frame holds more than "
        "21 MiB (more with a larger `max_message_bytes`); what exceeds it is refused as a bomb.",
    )
    compression_level: int = Field(10, ge=1, le=19, description="zstd level of archived frames.")

    # --- sessions ---
    lease_seconds: Seconds = Field(60.0, ge=1, description="Seconds that a session's lease lasts without renewal.")
    hydrate_wait: Seconds = Field(30.0, description="Seconds that opening a cold thread waits for it.")
    ask_again: Seconds = Field(3.0, description="Seconds after which a waiting session asks for its hydrate again.")
    exit_flush: Literal["evict", "linger"] = Field(
        "linger",
        description="What leaving a session asks for: `linger` keeps a cached copy for a while, `evict` none.",
    )
    linger_seconds: Seconds = Field(900.0, description="Seconds that a clean, unleased copy stays in Redis.")
    flush_delay: MaybeSeconds = Field(
        0.0, description="Seconds between a session's end and its flush; lets chatty apps flush after a lull."
    )

    # --- workers ---
    soft_time_limit: Seconds = Field(90.0, description="Seconds after which a task is told to stop.")
    hard_time_limit: Seconds = Field(120.0, description="Seconds after which a task's process is ended.")
    max_retries: int = Field(4, ge=0, description="Retries of a task whose store did not answer.")
    retry_backoff: Seconds = Field(1.0, description="Seconds before the first retry; doubles each time, with jitter.")
    retry_backoff_max: Seconds = Field(60.0, description="Seconds between two retries, at most.")
    poison_after: int = Field(5, ge=1, description="Unfinished runs for one thread after which it is set aside.")
    marker_seconds: Seconds = Field(
        300.0, description="Seconds after which a queued request counts as lost and may be queued again."
    )
    visibility_timeout: int = Field(
        300, ge=1, description="Seconds after which a Redis broker delivers an unacknowledged task again."
    )

    # --- sweep ---
    sweep_every: Seconds = Field(60.0, description="Seconds between two sweeps.")
    checkpoint_after: Seconds = Field(
        300.0, description="Seconds that a leased thread may be dirty before the sweep checkpoints it."
    )
    verify_every: MaybeSeconds = Field(
        0.0, description="Seconds between two scrubs, which read every archive and name what is damaged; 0 for none."
    )
    reconcile_every: MaybeSeconds = Field(
        86400.0, description="Seconds between two comparisons of the catalog with bucket and Redis; 0 for none."
    )

    @field_validator("s3_tags", mode="before")
    @classmethod
    def _tags(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        pairs = [item.partition("=") for item in value.split(",") if item.strip()]
        if any(not name.strip() or not middle for name, middle, _ in pairs):
            raise ValueError("must look like name=value,name=value")
        return {name.strip(): text.strip() for name, _, text in pairs}

    @field_validator(
        "s3_checksum",
        "s3_endpoint",
        "s3_region",
        "s3_storage_class",
        "s3_sse",
        "s3_sse_kms_key",
        mode="before",
    )
    @classmethod
    def _empty_is_none(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("s3_prefix")
    @classmethod
    def _no_outer_slash(cls, value: str) -> str:
        if not value or value != value.strip("/") or "//" in value:
            raise ValueError("must not be empty, and have no slash at either end nor two in a row")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.s3_access_key is None) != (self.s3_secret_key is None):
            raise ValueError("s3_access_key and s3_secret_key are set together or not at all")
        if self.s3_engine == "obstore" and self.s3_retry_mode == "adaptive":
            raise ValueError("s3_retry_mode=adaptive is boto3's; s3_engine must be auto or boto3")
        if self.s3_sse_kms_key and self.s3_sse != "aws:kms":
            raise ValueError("s3_sse_kms_key needs s3_sse=aws:kms")
        if self.soft_time_limit >= self.hard_time_limit:
            raise ValueError("soft_time_limit must be below hard_time_limit")
        if self.visibility_timeout < 2 * self.hard_time_limit:
            raise ValueError(
                "visibility_timeout must be at least twice hard_time_limit, or running tasks are delivered again"
            )
        if self.retry_backoff_max > self.visibility_timeout / 3:
            raise ValueError("retry_backoff_max must be at most a third of visibility_timeout")
        if self.flush_delay > self.visibility_timeout / 3:
            raise ValueError(
                "flush_delay must be at most a third of visibility_timeout, or flushes are delivered twice"
            )
        return self

    @classmethod
    def load(cls, **overrides: Any) -> Self:
        """Settings from the environment, with `overrides` over it.

        Raises:
            SettingsError: names each setting that is malformed; nothing was started.
        """
        try:
            return cls(**overrides)
        except ValidationError as error:
            raise SettingsError("; ".join(_problem(item) for item in error.errors())) from None

    def to_environ(self) -> dict[str, str]:
        """The variables that make another process load these very settings; holds secrets."""
        fields = type(self).model_fields
        told = ((name, value) for name, value in self if value not in (None, {}) or fields[name].default is not None)
        return {f"THREADKEEP_{name.upper()}": _as_text(value) for name, value in told}


def _problem(item: Any) -> str:
    names = [str(part) for part in item["loc"][:1]]
    variable = f"THREADKEEP_{names[0].upper()}" if names else "the settings"
    return f"{variable}: {item['msg'].removeprefix('Value error, ')}"


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, dict):
        return ",".join(f"{name}={text}" for name, text in value.items())
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)
