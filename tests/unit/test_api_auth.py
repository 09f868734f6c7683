"""Who a token names, and which tokens name nobody."""

from __future__ import annotations

import base64
import json
import time
from typing import Any

import jwt
import pytest

from services.api.auth import MAX_TOKEN, Verifier, bearer
from services.api.problems import Problem
from services.core.addresses import site_stream_id
from services.core.site import SiteSettings
from services.eventlog.sites import Secret, Site

SECRET = b"a-secret-of-at-least-thirty-two-bytes"
OTHER = b"another-secret-of-thirty-two-bytes-or-more"


def site(settings: SiteSettings | None = None, secrets: tuple[bytes, ...] = (SECRET,)) -> Site:
    return Site(
        "news",
        site_stream_id("news"),
        settings or SiteSettings(),
        0,
        tuple(Secret("HS256", secret) for secret in secrets),
    )


def claims(**changed: object) -> dict[str, Any]:
    given = {"iss": "news", "sub": "u-1", "exp": int(time.time()) + 300} | changed
    return {name: value for name, value in given.items() if value is not ...}


def token(secret: bytes = SECRET, algorithm: str = "HS256", **changed: Any) -> str:
    return jwt.encode(claims(**changed), secret, algorithm=algorithm)


def unsigned(header: dict[str, object], payload: object) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    return (b".".join(parts) + b".").decode()


def code_of(given: str, at: Site | None = None) -> str:
    with pytest.raises(Problem) as refused:
        Verifier().caller(at or site(), given)
    assert refused.value.status == 401
    assert len(given) < 3 or given not in str(refused.value)
    return refused.value.code


def test_a_token_names_its_caller() -> None:
    caller = Verifier().caller(
        site(),
        token(name="Ann", avatar="https://a.example/a.png", email="a@b.example", roles=["moderator", "x"]),
    )
    assert (caller.id, caller.name, caller.avatar) == ("u-1", "Ann", "https://a.example/a.png")
    assert (caller.moderator, caller.admin) == (True, False)


def test_without_a_name_the_sub_is_the_name() -> None:
    assert Verifier().caller(site(), token()).name == "u-1"


def test_an_admin_may_moderate() -> None:
    caller = Verifier().caller(site(), token(roles=["admin"]))
    assert caller.moderator
    assert caller.admin


def test_the_operator_role_comes_with_no_token() -> None:
    caller = Verifier().caller(site(), token(roles=["operator"]))
    assert not caller.moderator


@pytest.mark.parametrize(
    "changed",
    [
        {"sub": ...},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 256},
        {"sub": "a\u0000b"},
        {"sub": "guest:1"},
        {"sub": "key:1"},
        {"sub": "import:1"},
        {"exp": ...},
        {"exp": "tomorrow"},
        {"exp": 1e300},
        {"iss": ...},
        {"iss": "blog"},
        {"nbf": 4_000_000_000},
        {"name": "x" * 101},
        {"name": "a\nb"},
        {"name": ["Ann"]},
        {"avatar": "javascript:alert(1)"},
        {"email": "nobody"},
        {"roles": "admin"},
        {"roles": [1]},
    ],
    ids=repr,
)
def test_claims_out_of_shape_name_nobody(changed: dict[str, Any]) -> None:
    assert code_of(token(**changed)) == "token-invalid"


def test_an_expired_token_says_so_after_half_a_minute() -> None:
    assert code_of(token(exp=int(time.time()) - 31)) == "token-expired"
    assert Verifier().caller(site(), token(exp=int(time.time()) - 25)).id == "u-1"


def test_no_token_chooses_its_algorithm() -> None:
    assert code_of(unsigned({"alg": "none", "typ": "JWT"}, claims(roles=["admin"]))) == "token-invalid"
    assert code_of(unsigned({"alg": "None"}, claims())) == "token-invalid"
    assert code_of(token(algorithm="HS384", secret=SECRET * 2)) == "token-invalid"
    assert code_of(token(secret=OTHER)) == "token-invalid"


def test_a_signature_of_other_claims_is_worth_nothing() -> None:
    signed = token().split(".")
    forged = unsigned({"alg": "HS256"}, claims(roles=["admin"])).split(".")
    assert code_of(".".join((signed[0], forged[1], signed[2]))) == "token-invalid"


@pytest.mark.parametrize(
    "given",
    [
        "",
        "x",
        "a.b.c",
        "tl_0123456789",
        "é.é.é",
        unsigned({"alg": "HS256"}, {"exp": float("inf")}),
        base64.urlsafe_b64encode(b"[" * 2000).decode() + ".e30.x",
        "x" * (MAX_TOKEN + 1),
    ],
    ids=range(8),
)
def test_what_is_no_token_is_refused(given: str) -> None:
    assert code_of(given) == "token-invalid"


def test_infinity_is_no_expiry() -> None:
    header = base64.urlsafe_b64encode(b'{"alg":"HS256"}').rstrip(b"=")
    payload = base64.urlsafe_b64encode(b'{"iss":"news","sub":"u","exp":Infinity}').rstrip(b"=")
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        header + b"." + payload, SECRET
    )
    given = b".".join((header, payload, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()
    assert code_of(given) == "token-invalid"


def test_two_keys_live_at_once() -> None:
    both = site(secrets=(SECRET, OTHER))
    assert Verifier().caller(both, token()).id == "u-1"
    assert Verifier().caller(both, token(secret=OTHER)).id == "u-1"


def test_issuer_and_audience_are_the_sites() -> None:
    strict = site(SiteSettings(token_issuer="https://id.example", token_audience="comments"))
    assert Verifier().caller(strict, token(iss="https://id.example", aud="comments")).id == "u-1"
    assert Verifier().caller(strict, token(aud=["other", "comments"])).id == "u-1"
    assert code_of(token(), strict) == "token-invalid"
    assert code_of(token(aud="other"), strict) == "token-invalid"
    assert code_of(token(iss="https://other.example", aud="comments"), strict) == "token-invalid"


def test_an_audience_is_of_no_interest_to_a_site_without_one() -> None:
    assert Verifier().caller(site(), token(aud="anything")).id == "u-1"


def test_a_remembered_token_is_forgotten_with_its_key_and_its_audience() -> None:
    verifier, given = Verifier(), token()
    first = verifier.caller(site(), given)
    assert verifier.caller(site(), given) is first
    with pytest.raises(Problem):
        verifier.caller(site(secrets=(OTHER,)), given)
    with pytest.raises(Problem):
        verifier.caller(site(SiteSettings(token_audience="comments")), given)


def test_a_token_of_one_site_is_not_remembered_at_another() -> None:
    verifier, given = Verifier(), token()
    verifier.caller(site(), given)
    blog = Site("blog", site_stream_id("blog"), SiteSettings(), 0, (Secret("HS256", SECRET),))
    with pytest.raises(Problem):
        verifier.caller(blog, given)


def test_only_so_many_tokens_are_remembered() -> None:
    verifier = Verifier(limit=2)
    first = verifier.caller(site(), oldest := token(sub="u-1"))
    for number in (2, 3):
        verifier.caller(site(), token(sub=f"u-{number}"))
    again = verifier.caller(site(), oldest)
    assert again == first
    assert again is not first


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "abc"])
def test_only_bearer_signs_in(header: str) -> None:
    with pytest.raises(Problem) as refused:
        bearer(header)
    assert refused.value.code == "token-invalid"


def test_the_scheme_is_written_as_one_likes() -> None:
    assert bearer("bearer  abc") == "abc"
