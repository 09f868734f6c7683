"""Runs one embedded server and outlives its owner just long enough to stop it.

Started as a script of its own (standard library only), with the pipe from the owner as standard input: the
first line is the `Spec` as JSON, and the end of the pipe is the owner's end, however it came. A finalizer in
the owner would not run on SIGKILL, and a death signal on the server itself would fire when the *thread* that
started it ends; the pipe does neither. Should this process be killed, the server gets a death signal from the
kernel, since this process has one thread only.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import pwd
import select
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypedDict

EXIT_LOCKED = 75
"""Exit code where another server holds the folder (EX_TEMPFAIL of sysexits.h)."""

_LOCK_WAIT_S = 15.0
_CLONE_NEWUSER = 0x10000000
_PR_SET_PDEATHSIG = 1
_PR_SET_KEEPCAPS = 8
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAP_DAC_OVERRIDE = 1
_CAPABILITY_VERSION_3 = 0x20080522


class Spec(TypedDict):
    """What to run. Paths are absolute; a folder of `remove` is deleted when the server has ended."""

    home: str
    runtime: str
    prepare: list[str]
    prepared: list[str]
    serve: list[str]
    stop_signal: int
    grace_s: float
    drop_root: bool
    remove: list[str]


def main() -> int:
    """Run the server until the pipe ends, a signal asks for it, or the server ends by itself."""
    # The read is unbuffered, or the end of the pipe could hide in a buffer that select() does not see.
    owner = sys.stdin.fileno()
    spec: Spec = json.loads(_first_line(owner))
    wake_r, wake_w = os.pipe()
    os.set_blocking(wake_r, False)
    os.set_blocking(wake_w, False)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(wake_w, warn_on_full_buffer=False)
    locked = _lock(spec["home"])
    try:
        return _supervise(spec, owner, wake_r) if locked else EXIT_LOCKED
    finally:
        for folder in spec["remove"]:
            shutil.rmtree(folder, ignore_errors=True)


def _supervise(spec: Spec, owner: int, wake: int) -> int:
    become = _no_change
    if spec["drop_root"]:
        become = _enter_namespace if _works(_enter_namespace) else _drop_root
        owner_id = (0, 0) if become is _enter_namespace else _nobody()
        _give(spec["home"], owner_id)
        os.chown(spec["runtime"], *owner_id)
    log = os.path.join(spec["home"], "server.log")
    with contextlib.suppress(FileNotFoundError):
        os.unlink(log)
    if spec["prepare"]:
        source, target = spec["prepared"]
        shutil.rmtree(source, ignore_errors=True)
        status = os.waitpid(_spawn(spec["prepare"], log, become, signal.SIGKILL), 0)[1]
        if status != 0:
            return 1
        # Renamed only now, so that a start which was interrupted never leaves a half-made folder in use.
        os.rename(source, target)
    server = _spawn(spec["serve"], log, become, spec["stop_signal"])
    Path(spec["runtime"], "server.pid").write_text(str(server), "ascii")
    while True:
        readable, _, _ = select.select([owner, wake], [], [])
        signals = os.read(wake, 64) if wake in readable else b""
        if os.waitpid(server, os.WNOHANG)[0]:
            return 1
        if owner in readable or any(number != signal.SIGCHLD for number in signals):
            _stop(server, spec["stop_signal"], spec["grace_s"])
            return 0


def _first_line(fd: int) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(fd, 1)
        if not byte:
            raise SystemExit(1)
        line += byte
    return line


def _lock(home: str) -> bool:
    """Take the folder's lock. The last owner's supervisor may still be stopping: it is waited for."""
    fd = os.open(os.path.join(home, "lock"), os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)  # between two looks at the condition


def _spawn(argv: list[str], log: str, become: Callable[[], None], death_signal: int) -> int:
    parent = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        _exec(argv, log, become, death_signal, parent)
    except BaseException as error:  # noqa: BLE001 - a forked child must never return into its parent's code
        os.write(2, f"cannot start {argv[0]}: {error}\n".encode())
        os._exit(1)


def _exec(argv: list[str], log: str, become: Callable[[], None], death_signal: int, parent: int) -> NoReturn:
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir("/")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    become()
    if sys.platform == "linux":
        # After the change of user, which clears it.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(death_signal), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)
    # Nothing of the owner's environment: PGDATA or PGOPTIONS would change what runs.
    os.execve(argv[0], argv, {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath})


def _no_change() -> None:
    """Stay who we are: only root must become someone else, since PostgreSQL refuses user id 0."""


def _enter_namespace() -> None:
    """Be `nobody` within a user namespace, and root's own self to the file system (user_namespaces(7)).

    Programs and data may lie below a folder that only root may enter, such as /root: they stay reachable
    and root's, and no folder is opened to others.
    """
    uid, gid = _nobody()
    if sys.platform != "linux" or ctypes.CDLL(None).unshare(_CLONE_NEWUSER) != 0:
        raise PermissionError("no user namespace")
    for name, line in (("uid_map", f"{uid} 0 1"), ("setgroups", "deny"), ("gid_map", f"{gid} 0 1")):
        Path("/proc/self", name).write_text(line, "ascii")


def _drop_root() -> None:
    """Become `nobody` where namespaces are forbidden, as in most containers.

    CAP_DAC_OVERRIDE is kept where root has it, so that the data may lie below a closed folder
    (capabilities(7)). The programs may not: PostgreSQL looks for them with access(2), which ignores it.
    """
    libc = ctypes.CDLL(None)
    linux = sys.platform == "linux"
    if linux:
        libc.prctl(_PR_SET_KEEPCAPS, ctypes.c_ulong(1), 0, 0, 0)
    uid, gid = _nobody()
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if linux:
        bit = 1 << _CAP_DAC_OVERRIDE
        header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
        sets = (ctypes.c_uint32 * 6)(bit, bit, bit, 0, 0, 0)
        if libc.capset(header, sets) == 0:
            raising, capability = ctypes.c_ulong(_PR_CAP_AMBIENT_RAISE), ctypes.c_ulong(_CAP_DAC_OVERRIDE)
            libc.prctl(_PR_CAP_AMBIENT, raising, capability, 0, 0)


def _works(become: Callable[[], None]) -> bool:
    """Whether `become` succeeds, tried in a child."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    try:
        become()
    except BaseException:  # noqa: BLE001 - a forked child must never return into its parent's code
        os._exit(1)
    os._exit(0)


def _nobody() -> tuple[int, int]:
    entry = pwd.getpwnam("nobody")
    return entry.pw_uid, entry.pw_gid


def _give(home: str, owner: tuple[int, int]) -> None:
    """Make `owner` (user and group id) the owner of all below `home`, as PostgreSQL insists on."""
    if os.stat(home).st_uid == owner[0]:
        return
    for folder, _, files in os.walk(home):
        for name in files:
            os.chown(os.path.join(folder, name), *owner, follow_symlinks=False)
        os.chown(folder, *owner, follow_symlinks=False)


def _stop(server: int, stop_signal: int, grace_s: float) -> None:
    """Ask, wait at most `grace_s` seconds, then kill."""
    os.kill(server, stop_signal)
    # A stopped (SIGSTOP) server would not take the signal.
    os.kill(server, signal.SIGCONT)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline:
        if os.waitpid(server, os.WNOHANG)[0]:
            return
        time.sleep(0.01)  # between two looks at the condition
    os.kill(server, signal.SIGKILL)
    os.waitpid(server, 0)


if __name__ == "__main__":
    raise SystemExit(main())
