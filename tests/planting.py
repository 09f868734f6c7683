"""Processes that run other code than what lies there: a release before this one, or one with a bug.

What is planted is run as the interpreter starts (`sitecustomize`), in each process that is started meanwhile
and in those that it forks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import ROOT

POSTS = ("CommentPosted", "ReplyPosted")


def older(schema_version: int) -> str:
    """The release that knew posts up to this schema version, and no later one."""
    return f"""
from dataclasses import replace
from schema.events import registry
for name in {POSTS!r}:
    registry.CONTRACTS[name] = replace(
        registry.CONTRACTS[name], schema_version={schema_version}, written={schema_version}
    )
registry.UPCASTERS.__init__(registry.CONTRACTS, registry.STEPS)
"""


@contextmanager
def planted(code: str, folder: Path) -> Iterator[None]:
    """Processes that are started inside run `code` first."""
    place = folder / "planted"
    place.mkdir(exist_ok=True)
    (place / "sitecustomize.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join((str(place), str(ROOT))))
        yield
