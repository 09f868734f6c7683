"""`threadlog site secret`, `site key` and `token` on a real Postgres, in this process."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from typer.testing import CliRunner, Result

from services.core.addresses import site_stream_id
from services.core.site import SiteSettings
from services.eventlog.sites import Secret, Site
from services.ops.cli import app
from services.ops.commands.tokens import token_for
from services.ops.exits import Exit

Invoke = Callable[..., Result]
SECRET = "a secret of thirty-two bytes, or more"
UNKNOWN = "0b9f3c1e-5a43-4c0c-9d0e-6b1f4f9f7a55"


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, database_url: str, redis_url: str, broker_url: str) -> Invoke:
    """Runs a verb where there is a site `blog`; `code` is the exit code it must end with."""
    monkeypatch.setenv("THREADLOG_DATABASE_URL", database_url)
    monkeypatch.setenv("THREADLOG_REDIS_URL", redis_url)
    monkeypatch.setenv("THREADLOG_BROKER_URL", broker_url)
    monkeypatch.setenv("THREADLOG_MASTER_KEY", base64.b64encode(b"k" * 32).decode())

    def run(*arguments: str, code: Exit = Exit.DONE, stdin: str | bytes = "") -> Result:
        result = CliRunner().invoke(app, list(arguments), input=stdin)
        assert result.exit_code == code, result.output
        return result

    run("site", "add", "blog", "--secret", SECRET)
    return run


def listed(invoke: Invoke, what: str) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(invoke("site", what, "list", "blog", "--json").stdout)
    return found


# --- secrets ----------------------------------------------------------------------------------------------


def test_a_secret_takes_over_step_by_step(invoke: Invoke) -> None:
    (old,) = listed(invoke, "secret")
    made = invoke("site", "secret", "add", "blog").stdout.strip()
    assert len(made) >= 32
    third = invoke("site", "secret", "add", "blog", code=Exit.USAGE)
    assert f"threadlog site secret retire blog {old['id']}" in third.stderr
    assert f"retired {old['id']}" in invoke("site", "secret", "retire", "blog", str(old["id"])).stdout
    token = invoke("token", "blog", "ann").stdout.strip()
    assert jwt.decode(token, made, algorithms=["HS256"], issuer="blog")["sub"] == "ann"
    (new,) = listed(invoke, "secret")
    last = invoke("site", "secret", "retire", "blog", str(new["id"]), code=Exit.USAGE)
    assert "--force" in last.stderr
    shown = json.loads(invoke("site", "secret", "retire", "blog", str(new["id"]), "--force", "--json").stdout)
    assert shown == {"site": "blog", "id": new["id"], "retired": True}
    assert "adds one" in invoke("site", "secret", "list", "blog").stdout


def test_no_listing_shows_a_secret(invoke: Invoke) -> None:
    for arguments in (["--json"], []):
        shown = invoke("site", "secret", "list", "blog", *arguments).output
        assert "HS256" in shown
        assert SECRET not in shown


def test_a_secret_may_come_from_standard_input(invoke: Invoke) -> None:
    given = "another secret of thirty-two bytes"
    added = invoke("site", "secret", "add", "blog", "--secret", "-", "--json", stdin=f"{given}\n")
    assert json.loads(added.stdout)["secret"] is None
    assert jwt.decode(invoke("token", "blog", "ann").stdout.strip(), given, algorithms=["HS256"])


@pytest.mark.parametrize("algorithm", ["EdDSA", "RS256"])
@pytest.mark.parametrize("way", ["file", "stdin"])
def test_a_public_key_is_added_from_a_file_or_standard_input(
    invoke: Invoke, tmp_path: Path, algorithm: str, way: str
) -> None:
    pair = (
        ed25519.Ed25519PrivateKey.generate()
        if algorithm == "EdDSA"
        else rsa.generate_private_key(65537, 2048)
    )
    pem = pair.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    file = tmp_path / "blog.pem"
    file.write_bytes(pem)
    name = str(file) if way == "file" else "-"
    added = invoke("site", "secret", "add", "blog", "--alg", algorithm, "--public-key", name, stdin=pem)
    newest, _ = listed(invoke, "secret")
    assert newest["algorithm"] == algorithm
    assert str(newest["id"]) in added.stdout
    assert newest["fingerprint"]


def test_a_private_key_is_sent_back(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "blog.key"
    file.write_bytes(
        ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    refused = invoke(
        "site", "secret", "add", "blog", "--alg", "EdDSA", "--public-key", str(file), code=Exit.USAGE
    )
    assert "private key" in refused.stderr
    assert len(listed(invoke, "secret")) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["secret", "add", "nowhere"],
        ["secret", "list", "nowhere"],
        ["secret", "retire", "nowhere", UNKNOWN],
        ["secret", "retire", "blog", UNKNOWN],
        ["secret", "retire", "blog", "not-an-id"],
        ["secret", "add", "blog", "--alg", "none"],
        ["secret", "add", "blog", "--secret", "short"],
        ["key", "add", "nowhere"],
        ["key", "list", "nowhere"],
        ["key", "revoke", "blog", UNKNOWN],
        ["key", "add", "blog", "--role", "king"],
        ["key", "add", "blog", "--name", "a\nb"],
    ],
    ids=" ".join,
)
def test_what_is_not_there_or_makes_no_sense_is_wrong_usage(invoke: Invoke, arguments: list[str]) -> None:
    invoke("site", *arguments, code=Exit.USAGE)


# --- server keys ------------------------------------------------------------------------------------------


def test_a_key_is_printed_once_and_known_by_its_id_from_then_on(invoke: Invoke) -> None:
    added = invoke(
        "site", "key", "add", "blog", "--role", "operator", "--role", "moderator", "--name", "Desk"
    )
    key = added.stdout.strip()
    assert key.startswith("tl_")
    (shown,) = listed(invoke, "key")
    assert (shown["name"], shown["roles"], shown["revoked_at"]) == ("Desk", ["moderator", "operator"], None)
    for arguments in (["--json"], []):
        told = invoke("site", "key", "list", "blog", *arguments).output
        assert key not in told
        assert key.removeprefix("tl_") not in told
    made = json.loads(invoke("site", "key", "add", "blog", "--json").stdout)
    assert set(made) == {"site", "id", "name", "roles", "key"}
    assert made["roles"] == []


def test_a_key_is_revoked_for_good(invoke: Invoke) -> None:
    made = json.loads(invoke("site", "key", "add", "blog", "--role", "operator", "--json").stdout)
    assert f"revoked {made['id']}" in invoke("site", "key", "revoke", "blog", made["id"]).stdout
    first = listed(invoke, "key")
    again = json.loads(invoke("site", "key", "revoke", "blog", made["id"], "--json").stdout)
    assert [again] == first
    assert again["revoked_at"] is not None
    assert made["id"] in invoke("site", "key", "list", "blog").stdout


# --- token ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([""], "sub"),
        (["\u200b"], "empty"),
        (["guest:1"], "reserved"),
        (["key:1"], "reserved"),
        (["x" * 256], "longer"),
        (["ann", "--name", "x" * 101], "longer"),
        (["ann", "--name", ""], "empty"),
        (["ann", "--name", "a\nb"], "one line"),
        (["ann", "--email", "nobody"], "email"),
        (["ann", "--avatar", "javascript:alert(1)"], "url"),
        (["ann", "--expires", "999999999999"], "exp"),
        (["ann", "--role", "operator"], "no such role"),
    ],
    ids=repr,
)
def test_no_token_is_printed_that_the_api_would_refuse(
    invoke: Invoke, arguments: list[str], reason: str
) -> None:
    refused = invoke("token", "blog", *arguments, code=Exit.USAGE)
    assert reason in refused.stderr
    assert refused.stdout == ""


def test_a_token_says_what_it_was_asked_to_say(invoke: Invoke) -> None:
    shown = json.loads(invoke("token", "blog", "ann", "--email", "ann@a.example", "--json").stdout)
    claims = jwt.decode(shown["token"], SECRET, algorithms=["HS256"], issuer="blog")
    assert (shown["site"], shown["sub"], claims["email"]) == ("blog", "ann", "ann@a.example")
    assert "aud" not in claims


def test_a_token_is_for_the_sites_audience() -> None:
    settings = SiteSettings(token_audience="comments")
    site = Site("blog", site_stream_id("blog"), settings, 0, (Secret("HS256", SECRET.encode()),))
    token = token_for(site, "ann")
    assert jwt.decode(token, SECRET, algorithms=["HS256"], audience="comments")["sub"] == "ann"


def test_a_site_without_a_stored_secret_signs_its_own_tokens(invoke: Invoke) -> None:
    (old,) = listed(invoke, "secret")
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    pem = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    invoke("site", "secret", "add", "blog", "--alg", "EdDSA", "--public-key", "-", stdin=pem)
    invoke("site", "secret", "retire", "blog", str(old["id"]))
    assert "not stored here" in invoke("token", "blog", "ann", code=Exit.USAGE).stderr
