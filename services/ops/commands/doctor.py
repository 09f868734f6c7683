"""`threadlog doctor`: looks at everything that an operator would look at, and names the next command."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final

import asyncpg
import typer
from aiosmtplib import SMTPException
from redis.exceptions import RedisError

from services.errors import ConfigurationError, ThreadlogError
from services.eventlog.erased_keys import ErasedKeysFile
from services.eventlog.keys import MasterKey, SealBroken
from services.eventlog.migrate import applied, known
from services.eventlog.queries import QUERIES
from services.ops.commands.lag import Lagging, measure
from services.ops.exits import Exit, leave, run
from services.ops.output import print_json, table
from services.projection.restored import Restored
from services.settings import Settings
from services.wiring import connect_redis, master_key, resources
from services.workers.channels.smtp import MailServer

_POSTGRES: Final = 170000
_REDIS: Final = 7
_CLOCK_S: Final = 1.0
_LAG_S: Final = 60.0
_LATE_S: Final = 600.0
_AHEAD: Final = timedelta(days=14)
_KEYS: Final = 20
_ERASING: Final = timedelta(minutes=10)
_DOWN: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, ThreadlogError)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one look gave. `next` is the command to go on with, empty where all is well."""

    check: str
    ok: bool
    detail: str
    next: str = ""


@dataclass(slots=True)
class _Report:
    findings: list[Finding] = field(default_factory=list)

    def well(self, check: str, detail: str) -> None:
        self.findings.append(Finding(check, True, detail))

    def found(self, check: str, detail: str, next_: str) -> None:
        self.findings.append(Finding(check, False, detail, next_))


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at configuration, connections, schema, partitions, keys, clock, lag and dead letters.

    Names the next command for each finding, and exits 1 on one.
    """
    report = _Report()
    try:
        settings = Settings.load()
    except ConfigurationError as error:
        for line in str(error).splitlines():
            report.found("configuration", line, "set it; docs/configuration.md lists every variable")
    else:
        report.well("configuration", "every variable is well-formed")
        run(_examine(settings, report))
    findings = report.findings
    if as_json:
        print_json([asdict(one) for one in findings])
    else:
        table(
            ("check", "", "detail", "next"),
            [(one.check, "ok" if one.ok else "FOUND", one.detail, one.next) for one in findings],
        )
    leave(Exit.DONE if all(one.ok for one in findings) else Exit.FOUND)


async def _examine(settings: Settings, report: _Report) -> None:
    schema_fits = await _postgres(settings, report)
    views = await _redis(
        "views", settings.redis_url, "THREADLOG_REDIS_URL", report, budget_mb=settings.views_memory_mb or 0
    )
    await _mail(settings, report)
    await _redis("broker", settings.broker, "THREADLOG_BROKER_URL", report)
    if schema_fits:
        await _followers(settings, report, views=views)


async def _postgres(settings: Settings, report: _Report) -> bool:
    """Whether the database has the schema, so that more can be looked at."""
    try:
        connection = await asyncpg.connect(settings.database_url, timeout=5, command_timeout=10)
    except _DOWN as error:
        report.found("postgres", _line(error), "start it, or correct THREADLOG_DATABASE_URL")
        return False
    try:
        await _server(connection, report)
        present = await applied(connection)
        missing = [name for name in known() if name not in present]
        if missing:
            report.found("schema", f"the database lacks {', '.join(missing)}", "threadlog migrate")
            return False
        newer = sorted(present - set(known()))
        report.well("schema", f"newer by {', '.join(newer)}" if newer else "up to date")
        await _partitions(connection, report)
        await _keys(connection, master_key(settings), report)
        await _erasures(connection, settings.erased_keys_file, report)
        return True
    except _DOWN as error:
        report.found("postgres", _line(error), "look into the server's log")
        return False
    finally:
        await connection.close(timeout=5)


async def _server(connection: asyncpg.Connection, report: _Report) -> None:
    before = time.time()
    facts = await connection.fetchrow(QUERIES["server_facts"])
    after = time.time()
    assert facts is not None
    detail = f"PostgreSQL {facts['version']}"
    if facts["number"] < _POSTGRES:
        report.found("postgres", f"{detail}; 17 or later is needed", "upgrade the server")
    elif facts["standby"]:
        report.found("postgres", f"{detail}, a standby", "give THREADLOG_DATABASE_URL the primary's address")
    else:
        report.well("postgres", detail)
    weak = [name for name in ("fsync", "synchronous_commit", "full_page_writes") if facts[name] == "off"]
    if weak:
        report.found("durability", f"{', '.join(weak)} is off: a crash may lose comments", "turn it on")
    else:
        report.well("durability", f"fsync on, synchronous_commit {facts['synchronous_commit']}")
    difference = facts["now"].timestamp() - (before + after) / 2
    uncertain = (after - before) / 2
    if abs(difference) > _CLOCK_S + uncertain:
        report.found(
            "clock", f"Postgres is {difference:+.1f} s from this host", "timedatectl status, on both"
        )
    else:
        report.well("clock", f"Postgres is {difference * 1000:+.0f} ms from this host")


async def _partitions(connection: asyncpg.Connection, report: _Report) -> None:
    row = await connection.fetchrow(QUERIES["idempotency_partitions"])
    assert row is not None
    weeks: list[date] = row["weeks"]
    ahead = max(weeks) + timedelta(days=7) if weeks else None
    today = datetime.now(UTC).date()
    if ahead is None or ahead < today + _AHEAD:
        until = "are missing" if ahead is None else f"end on {ahead}"
        report.found("partitions", f"those of Idempotency-Keys {until}", "threadlog migrate")
    elif row["later"]:
        report.found(
            "partitions",
            f"{row['later']:,} Idempotency-Keys or more lie in the default partition",
            "check that a `threadlog worker` runs; they expire by themselves",
        )
    else:
        report.well("partitions", f"made until {ahead}")


async def _keys(connection: asyncpg.Connection, master: MasterKey, report: _Report) -> None:
    opened = 0
    try:
        for name in ("newest_site_secrets", "newest_author_keys"):
            for key_id, wrapped in await connection.fetch(QUERIES[name], _KEYS):
                master.unwrap(key_id.bytes, wrapped)
                opened += 1
    except SealBroken as error:
        report.found("keys", str(error), "set THREADLOG_MASTER_KEY to the key of this database")
        return
    detail = f"the master key opens {opened} of {opened} looked at" if opened else "none stored"
    replaces = master.previous is not None
    if replaces and await connection.fetchval(QUERIES["master_key"]) != master.fingerprint:
        detail = "THREADLOG_MASTER_KEY has not replaced THREADLOG_MASTER_KEY_PREVIOUS yet"
        report.found("keys", detail, "threadlog site rotate-master-key")
    else:
        report.well("keys", detail)


async def _erasures(connection: asyncpg.Connection, path: Path | None, report: _Report) -> None:
    alive = 0
    if path is not None:
        destroyed = list(ErasedKeysFile(path).keys())
        alive = len(await connection.fetch(QUERIES["living_keys_among"], destroyed))
    row = await connection.fetchrow(QUERIES["unfinished_erasures"])
    assert row is not None
    if alive:
        detail = f"{alive:,} keys live that THREADLOG_ERASED_KEYS_FILE names: a backup was restored"
        report.found("erasures", detail, "threadlog erase reapply")
    elif row["erasures"] and datetime.now(UTC) - row["since"] > _ERASING:
        detail = f"{row['erasures']:,} are not carried out, the oldest since {row['since']:%Y-%m-%d %H:%M}Z"
        report.found("erasures", detail, "check that a `threadlog worker` runs; threadlog erase --list")
    else:
        report.well("erasures", f"{row['erasures']:,} under way")


async def _mail(settings: Settings, report: _Report) -> None:
    if settings.smtp_url is None:
        report.well("mail", "none is sent: THREADLOG_SMTP_URL is not set")
        return
    missing = [
        f"THREADLOG_{name.upper()}" for name in ("mail_from", "public_url") if not getattr(settings, name)
    ]
    if missing:
        detail = f"none is sent: {' and '.join(missing)} not set, THREADLOG_SMTP_URL is"
        report.found("mail", detail, "set it; docs/notifications.md")
        return
    server = MailServer(settings.smtp_url.get_secret_value(), settings.mail_from or "")
    try:
        encrypted = await server.greeted()
    except (SMTPException, OSError, TimeoutError) as error:
        report.found("mail", _line(error), "start the mail server, or correct THREADLOG_SMTP_URL")
        return
    report.well("mail", "the mail server answers" + ("" if encrypted else ", without TLS"))
    if not (settings.public_url or "").startswith("https://"):
        detail = "THREADLOG_PUBLIC_URL is not https: mail programs show no button to unsubscribe"
        report.found("mail links", detail, "put a proxy with TLS before the API, and name it")


async def _redis(check: str, url: str, variable: str, report: _Report, *, budget_mb: int = 0) -> bool:
    client = connect_redis(url)
    try:
        server: dict[str, Any] = await client.info("server")
        memory: dict[str, Any] = await client.info("memory")
    except (RedisError, OSError) as error:
        report.found(check, _line(error), f"start it, or correct {variable}; comments are taken meanwhile")
        return False
    finally:
        await client.aclose()
    valkey = server.get("valkey_version")
    version = str(valkey or server.get("redis_version", "0"))
    detail = f"{'Valkey' if valkey else 'Redis'} {version}"
    policy = memory.get("maxmemory_policy", "noeviction")
    most = int(memory.get("maxmemory", 0))
    if int(version.partition(".")[0]) < _REDIS:
        report.found(check, f"{detail}; 7 or later is needed", "upgrade the server")
    elif policy != "noeviction":
        report.found(
            check, f"{detail}, {policy}", "set maxmemory-policy noeviction: views are whole or absent"
        )
    elif most and budget_mb << 20 >= most:
        report.found(
            check,
            f"{detail}, maxmemory {most >> 20:,} MB: it is full before any view is dropped",
            "set THREADLOG_VIEWS_MEMORY_MB below it; three quarters of it are the default",
        )
    else:
        report.well(check, f"{detail}, {memory.get('used_memory_human', '?')} used")
    return True


async def _followers(settings: Settings, report: _Report, *, views: bool) -> None:
    try:
        async with resources(settings) as found:
            sites = await found.sites.all()
            seen = await measure(found)
            if views and await Restored(found.views).of_another_log(found.pool):
                report.found(
                    "restore",
                    "the views are of another log: a backup was restored, or another server took over",
                    "check that a `threadlog worker` runs: it replaces those that differ",
                )
    except _DOWN as error:
        report.found("lag", _line(error), "threadlog lag")
        return
    if not sites:
        report.found("sites", "there is none", "threadlog site add SITE")
    else:
        report.well("sites", f"{len(sites):,}")
    if seen.seconds > _LAG_S:
        behind = sum(lane.behind for lane in seen.lanes)
        detail = f"{behind:,} threads are behind, the oldest by {seen.seconds:,.0f} s"
        report.found("lag", detail, "check that a `threadlog worker` runs; threadlog lag")
    elif not views:
        report.well("lag", "of notifications none; views are away")
    else:
        report.well("lag", f"{seen.seconds:.1f} s")
    _deliveries(seen, report)
    if not seen.letters:
        report.well("dead letters", "none")
        return
    letter = seen.letters[0]
    site, key = seen.names.get(letter.stream_id, ("?", None))
    report.found(
        "dead letters",
        f"{len(seen.letters):,}, the first: {letter.projection} of {site} {key!r} at {letter.version}: "
        f"{letter.reason}",
        "threadlog dead-letters list",
    )


def _deliveries(seen: Lagging, report: _Report) -> None:
    for one in seen.deliveries:
        if one.late > _LATE_S:
            detail = f"by {one.channel}: {one.due:,} are due, the oldest for {one.late:,.0f} s"
            report.found("deliveries", detail, "check that a `threadlog worker` runs; threadlog lag")
        if one.dead:
            detail = f"by {one.channel}: {one.dead:,} were given up in the last 30 days"
            report.found(
                "deliveries", detail, f"threadlog deliveries list --state dead --channel {one.channel}"
            )
    if not any(one.dead or one.late > _LATE_S for one in seen.deliveries):
        report.well("deliveries", f"{sum(one.due for one in seen.deliveries):,} due, none dead")
    for endpoint in seen.endpoints_off:
        detail = f"{endpoint.site} {endpoint.url} is switched off: {endpoint.disabled_reason}"
        report.found("webhooks", detail, f"threadlog site webhook enable {endpoint.site} {endpoint.id}")
    if not seen.endpoints_off:
        report.well("webhooks", "no endpoint is switched off")


def _line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
