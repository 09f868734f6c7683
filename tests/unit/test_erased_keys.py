"""The file of destroyed keys: what was answered stands in it, whatever happened between two lines."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import pytest

from services.errors import ConfigurationError
from services.eventlog.erased_keys import ErasedKeysFile
from tests.factories import START

KEYS = [UUID(int=number, version=4) for number in range(1, 4)]


def test_keys_are_read_in_the_order_of_their_destruction(tmp_path: Path) -> None:
    file = ErasedKeysFile(tmp_path / "keys")
    assert list(file.keys()) == []
    for key in KEYS:
        file.append(key, START)
    assert list(file.keys()) == KEYS
    assert (tmp_path / "keys").read_text().splitlines()[0] == f"{KEYS[0]} 2026-11-23T05:00:00.123456Z"


@pytest.mark.parametrize("left", [1, 20, 36, 40])
def test_a_line_that_a_crash_cut_off_spoils_no_other(tmp_path: Path, left: int) -> None:
    path = tmp_path / "keys"
    file = ErasedKeysFile(path)
    file.append(KEYS[0], START)
    whole = path.read_bytes()
    file.append(KEYS[1], START)
    path.write_bytes(path.read_bytes()[: len(whole) + left])
    cut_off = [] if left < 36 else [KEYS[1]]
    assert list(file.keys()) == [KEYS[0], *cut_off]
    file.append(KEYS[2], START)
    assert list(file.keys()) == [KEYS[0], *cut_off, KEYS[2]]


def test_what_is_no_such_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("these are no keys\n")
    with pytest.raises(ConfigurationError, match="line 1 names no key"):
        list(ErasedKeysFile(tmp_path / "keys").keys())
