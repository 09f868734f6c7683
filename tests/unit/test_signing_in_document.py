"""What docs/signing-in.md shows works as it is written there."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from services.api.auth import Verifier
from services.api.guests import LIFETIME
from services.core.addresses import site_stream_id
from services.core.site import SiteSettings
from services.eventlog.credentials import public_key
from services.eventlog.sites import Secret, Site
from services.ops.cli import app

TEXT = (Path(__file__).parents[2] / "docs/signing-in.md").read_text()


def blocks(language: str) -> list[str]:
    """The examples in one language."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", TEXT, re.MULTILINE | re.DOTALL)
    return [re.sub(rf"^{indent}", "", text, flags=re.MULTILINE) for indent, text in found]


COMMANDS = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("threadlog ")]


def test_the_token_of_the_example_is_taken() -> None:
    names: dict[str, Any] = {"secret": "a-secret-of-at-least-thirty-two-bytes"}
    (example,) = blocks("python")
    exec(example, names)
    site = Site(
        "blog", site_stream_id("blog"), SiteSettings(), 0, (Secret("HS256", names["secret"].encode()),)
    )
    caller = Verifier().caller(site, f"Bearer {names['token']}")
    assert (caller.id, caller.name, caller.moderator, caller.admin) == ("u-17", "Ann", True, False)


@pytest.mark.parametrize("line", COMMANDS)
def test_the_commands_of_the_examples_are_understood(line: str) -> None:
    command: Any = get_command(app)
    words = shlex.split(line)[1:]
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)


def test_the_examples_show_every_verb() -> None:
    shown = {" ".join(line.split()[1:4]) for line in COMMANDS}
    assert shown == {
        "site secret add",
        "site secret list",
        "site secret retire",
        "site key add",
        "site key list",
        "site key revoke",
    }


def test_the_key_pair_of_the_example_is_one_that_is_taken(tmp_path: Path) -> None:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("openssl ")]
    for line in lines:
        try:
            subprocess.run(shlex.split(line), cwd=tmp_path, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("there is no openssl here")
    assert public_key("EdDSA", (tmp_path / "blog.pem").read_bytes()).startswith(b"-----BEGIN PUBLIC KEY-----")


def test_a_guests_token_lives_as_long_as_it_says() -> None:
    assert f"It is good for {LIFETIME // 86_400} days" in TEXT
