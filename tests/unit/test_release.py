"""What names a release: its version, and the code that applies events."""

from __future__ import annotations

from pathlib import Path

import pytest

from services.workers.release import FOLLOWING, release


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Packages with a file of code each."""
    for folder in FOLLOWING:
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "code.py").write_text("x = 1")
    return tmp_path


def test_the_same_code_is_the_same_release(tree: Path) -> None:
    before = release(tree)
    (tree / "services/core/__pycache__").mkdir()
    (tree / "services/core/__pycache__/code.pyc").write_bytes(b"compiled")
    (tree / "README.md").write_text("words")
    assert release(tree) == before
    assert release() == release()


@pytest.mark.parametrize("folder", FOLLOWING)
def test_code_changed_under_the_same_version_is_another_release(tree: Path, folder: str) -> None:
    before = release(tree)
    (tree / folder / "code.py").write_text("x = 2")
    assert release(tree) != before
    assert release(tree).partition("+")[0] == before.partition("+")[0]


def test_code_moved_to_another_file_is_another_release(tree: Path) -> None:
    before = release(tree)
    (tree / "schema/code.py").rename(tree / "schema/other.py")
    assert release(tree) != before
