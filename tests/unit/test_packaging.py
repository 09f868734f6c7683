"""What is packed, what it is called, and that the tools agree with each other."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DATA_SUFFIXES = {
    ".sql",
    ".lua",
    ".zdict",
    ".json",
    ".html",
    ".css",
    ".js",
    ".typed",
    ".po",
    ".txt",
    ".subject",
}


def data_files() -> set[str]:
    return {
        path.relative_to(ROOT).as_posix()
        for top in ("schema", "services")
        for path in (ROOT / top).rglob("*")
        if path.suffix in DATA_SUFFIXES
    }


@pytest.mark.parametrize("name", ["schema", "services"])
def test_no_other_distribution_owns_our_top_level_names(name: str) -> None:
    assert set(packages_distributions().get(name, [])) <= {"threadlog"}


def test_wheel_and_sdist_hold_sql_lua_and_other_data(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-d", str(tmp_path)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    [wheel] = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert data_files() <= names
    assert {name.split("/")[0] for name in names} == {"schema", "services", "threadlog-0.1.0.dist-info"}
    [sdist] = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as tar:
        packed = {name.partition("/")[2] for name in tar.getnames()}
    assert data_files() <= packed


def test_the_lock_files_agree_and_name_no_registry() -> None:
    lock = (ROOT / "requirements-ci.txt").read_text("utf-8")
    run = (ROOT / "requirements-run.txt").read_text("utf-8")
    assert "://" not in lock + run
    assert {line for line in run.splitlines() if "==" in line} <= set(lock.splitlines())


def test_the_lock_file_pins_every_dependency() -> None:
    lock = (ROOT / "requirements-ci.txt").read_text("utf-8")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(each for extra in project["optional-dependencies"].values() for each in extra),
    ]
    for requirement in wanted:
        name = requirement.partition(">=")[0].partition("[")[0]
        assert name == "threadlog" or f"\n{name}==" in lock or f"\n{name}[" in lock, name


def test_ci_runs_exactly_the_test_command_of_the_readme() -> None:
    [command] = [
        line.removeprefix("TESTS=").strip("'")
        for line in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
        if line.startswith("TESTS=")
    ]
    assert command in (ROOT / "README.md").read_text("utf-8").splitlines()
