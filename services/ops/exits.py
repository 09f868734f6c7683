"""Exit codes of the command line, and which error ends in which (contract, section 13)."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Coroutine
from enum import IntEnum
from typing import Any, Final, TypeVar

import asyncpg
import redis.exceptions
import typer
from typer.core import TyperGroup

from services.core.addresses import BadAddress
from services.core.text import TextRefused
from services.errors import (
    CommentNotFound,
    ConfigurationError,
    CredentialRefused,
    ParentNotFound,
    SiteNotFound,
    TemplateRefused,
    ThreadlogError,
    Unavailable,
    VersionNotReached,
)
from services.eventlog.keys import SealBroken

_R = TypeVar("_R")


class Exit(IntEnum):
    """What the process ends with."""

    DONE = 0
    FOUND = 1
    """It found what it was asked to look for: a difference, a dead letter."""
    USAGE = 2
    """The arguments or the configuration are wrong."""
    UNREACHABLE = 3
    """A dependency does not answer."""
    FAILED = 4


class UsageRefused(ThreadlogError):
    """The arguments do not make sense together, or name what does not exist."""


_USAGE: Final = (
    ConfigurationError,
    UsageRefused,
    CredentialRefused,
    TemplateRefused,
    SiteNotFound,
    CommentNotFound,
    ParentNotFound,
    VersionNotReached,
    BadAddress,
    TextRefused,
)
_UNREACHABLE: Final = (
    Unavailable,
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.TooManyConnectionsError,
    asyncpg.AdminShutdownError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
)


def exit_of(error: Exception) -> tuple[Exit, str]:
    """The exit code of an error, and the line that tells of it."""
    text = str(error) or type(error).__name__
    if isinstance(error, _USAGE):
        return Exit.USAGE, text
    if isinstance(error, _UNREACHABLE):
        return Exit.UNREACHABLE, f"a dependency does not answer: {text}"
    if isinstance(error, (ThreadlogError, SealBroken)):
        return Exit.FAILED, text
    return Exit.FAILED, f"{type(error).__name__}: {text}"


def tell(error: Exception) -> Exit:
    """Tell of an error on standard error; the code to end with."""
    code, text = exit_of(error)
    if code is Exit.FAILED and not isinstance(error, (ThreadlogError, SealBroken)):
        traceback.print_exception(error)
    for line in text.splitlines():
        print(f"threadlog: {line}", file=sys.stderr)
    return code


class Guarded(TyperGroup):
    """A group of commands whose errors end in a line on standard error and the right exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, BrokenPipeError):
            raise
        except Exception as error:
            if hasattr(error, "exit_code"):  # the parser's own errors know how to show themselves
                raise
            raise typer.Exit(tell(error)) from error


def run(main: Coroutine[Any, Any, _R]) -> _R:
    """Run a command's coroutine to its end."""
    import uvloop  # here: most of what --help is asked for needs none

    return uvloop.run(main)


def leave(code: Exit) -> None:
    """End the command with `code`."""
    if code is not Exit.DONE:
        raise typer.Exit(int(code))
