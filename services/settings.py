"""Configuration: environment variables named THREADLOG_…, checked before anything starts.

`docs/configuration.md` lists them in one table; a test compares it with this class.
"""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, IPvAnyNetwork, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from services.errors import ConfigurationError

PREFIX: Final = "THREADLOG_"


def _scheme(*allowed: str) -> AfterValidator:
    def check(value: str) -> str:
        if urlsplit(value).scheme not in allowed:
            raise ValueError(f"takes an address that begins with {' or '.join(a + '://' for a in allowed)}")
        return value

    return AfterValidator(check)


def _is_key(value: SecretStr) -> SecretStr:
    try:
        size = len(b64decode(value.get_secret_value(), validate=True))
    except ValueError as error:
        raise ValueError("takes 32 random bytes in base64") from error
    if size != 32:
        raise ValueError("takes 32 random bytes in base64")
    return value


def _divided(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _is_mail_server(value: SecretStr) -> SecretStr:
    parts = urlsplit(value.get_secret_value())
    try:
        usable = parts.scheme in ("smtp", "smtps") and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable or parts.path.strip("/") or parts.query or parts.fragment:
        raise ValueError("takes smtp:// or smtps://, perhaps USER:PASSWORD@, and HOST:PORT")
    return value


def _is_plain_address(value: str) -> str:
    local, at, domain = value.rpartition("@")
    if not at or not value.isascii() or not local or not domain or set(value) & set(' <>,;:"\r\n\t'):
        raise ValueError("takes a mail address, without a name")
    return value


def _is_base(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("https", "http") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("takes an address that begins with https:// or http://, without a query")
    return value.rstrip("/")


Networks = Annotated[tuple[IPvAnyNetwork, ...], NoDecode, BeforeValidator(_divided)]
PostgresUrl = Annotated[str, _scheme("postgres", "postgresql")]
RedisUrl = Annotated[str, _scheme("redis", "rediss", "unix")]


class Settings(BaseSettings):
    """Every setting, with its default and its bounds."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True
    )

    database_url: PostgresUrl = Field(
        description="The log's Postgres (17 or later); of several hosts, with "
        "`target_session_attrs=read-write`, the primary."
    )
    log_read_url: PostgresUrl | None = Field(
        None,
        description="A standby of the log's Postgres, which `verify`, `replay` and `export` read; if unset, "
        "the primary.",
    )
    redis_url: RedisUrl = Field(description="The views' Redis (7 or later) or Valkey.")
    broker_url: RedisUrl | None = Field(
        None,
        description="The messages' Redis. Better another server; where unset, the views' server, database 1.",
    )
    master_key: Annotated[SecretStr, AfterValidator(_is_key)] = Field(
        description="32 random bytes in base64; wraps every author's key. Losing it loses every text."
    )
    master_key_previous: Annotated[SecretStr, AfterValidator(_is_key)] | None = Field(
        None, description="The key that THREADLOG_MASTER_KEY replaces, while it does. docs/operations.md"
    )
    host: str = Field("127.0.0.1", description="The address that the API listens on.")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(8080, description="The port that the API listens on.")
    metrics_port: Annotated[int, Field(ge=1, le=65535)] | None = Field(
        None, description="Where `worker` serves /metrics; nowhere where unset."
    )
    metrics_networks: Networks = Field(
        "127.0.0.0/8,::1/128",
        validate_default=True,
        description="Networks, divided by commas, whose clients may read the API's /metrics.",
    )
    trusted_proxies: Networks = Field(
        "",
        validate_default=True,
        description="Networks, divided by commas, of the proxies whose X-Forwarded-For is believed.",
    )
    lanes: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Lanes of a new database; `migrate` fixes the number for good."
    )
    pool_size: Annotated[int, Field(ge=2, le=200)] = Field(
        8, description="Postgres connections of one process, beside one for each lane and one for /readyz."
    )
    max_queue: Annotated[int, Field(ge=1, le=1_000_000)] = Field(
        4000, description="Commands that wait in one process before it answers 503."
    )
    max_batch: Annotated[int, Field(ge=1, le=1000)] = Field(
        200, description="Commands in one transaction, at most."
    )
    page_memory_mb: Annotated[int, Field(ge=0, le=65536)] = Field(
        64, description="Megabytes of answers that one process of `api` remembers."
    )
    max_streams: Annotated[int, Field(ge=1, le=60_000)] = Field(
        20_000, description="Live streams of one API process, at most; more are answered with 503."
    )
    max_streams_per_address: Annotated[int, Field(ge=1, le=60_000)] = Field(
        1_000,
        description="Live streams of one API process to one client's address (of IPv6 its /64), at most; "
        "more are answered with 503.",
    )
    views_memory_mb: Annotated[int, Field(ge=1, le=16_777_216)] | None = Field(
        None,
        description="Megabytes that the views' server may use before the least recently read views are "
        "dropped; where unset, three quarters of its `maxmemory`, or no bound.",
    )
    erased_keys_file: Path | None = Field(
        None,
        description="Where the ids of destroyed keys are written, outside the backups. docs/erasure.md",
    )
    smtp_url: Annotated[SecretStr, AfterValidator(_is_mail_server)] | None = Field(
        None,
        description="The mail server, `smtp://` (STARTTLS where it is offered) or `smtps://`, with "
        "USER:PASSWORD@ where it asks for them; no mail is entered or sent where unset. "
        "docs/notifications.md",
    )
    mail_from: Annotated[str, AfterValidator(_is_plain_address)] | None = Field(
        None, description="The address that mails come from. Needed for mail."
    )
    public_url: Annotated[str, AfterValidator(_is_base)] | None = Field(
        None,
        description="Where people reach the API, as in `https://comments.example`: links in mails begin with "
        "it. Needed for mail.",
    )
    webhook_allow_private: Networks = Field(
        "",
        validate_default=True,
        description="Networks, divided by commas, that are not public and that webhooks may be sent to "
        "nevertheless, by http:// too.",
    )
    api_processes: Annotated[int, Field(ge=1, le=64)] = Field(
        1, description="Processes of `api`, on one port."
    )
    worker_processes: Annotated[int, Field(ge=1, le=64)] = Field(1, description="Processes of `worker`.")
    worker_threads: Annotated[int, Field(ge=1, le=64)] = Field(
        8, description="Messages that one worker process handles at once."
    )
    log_level: Annotated[str, Field(pattern="^(debug|info|warning|error)$")] = Field(
        "info", description="debug, info, warning or error."
    )

    @property
    def sends_mail(self) -> bool:
        """Whether mails are entered and sent: none that nobody could unsubscribe from."""
        return None not in (self.smtp_url, self.mail_from, self.public_url)

    @property
    def broker(self) -> str:
        """Where the messages are, the default made explicit."""
        if self.broker_url is not None:
            return self.broker_url
        parts = urlsplit(self.redis_url)
        if parts.scheme == "unix":
            return f"{parts.scheme}://{parts.path}?db=1"
        return parts._replace(path="/1").geturl()

    @classmethod
    def load(cls, **given: Any) -> Settings:
        """The settings of this process's environment.

        Raises ConfigurationError with a line for each variable that is missing or wrong, values left out.
        """
        try:
            return cls(**given)
        except ValidationError as error:
            lines = []
            for one in error.errors():
                name = PREFIX + str(one["loc"][0]).upper()
                what = "is not set" if one["type"] == "missing" else one["msg"].removeprefix("Value error, ")
                lines.append(f"{name}: {what}")
            raise ConfigurationError("\n".join(lines)) from error
