"""Who a token names, and which tokens name nobody."""

from __future__ import annotations

import base64
import json
import time
from typing import Any
from uuid import UUID

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.api.auth import Caller, Verifier, acting_as, bearer
from services.api.problems import Problem
from services.api.tokens import LEEWAY, MAX_TOKEN, sign
from services.core.addresses import site_stream_id
from services.core.site import SiteSettings
from services.eventlog.sites import Secret, ServerKey, Site, key_hash

SECRET = b"a-secret-of-at-least-thirty-two-bytes"
OTHER = b"another-secret-of-thirty-two-bytes-or-more"


GUESTS = Secret("HS256", b"what the tokens of guests are signed with")
ED25519 = ed25519.Ed25519PrivateKey.generate()
RSA, OTHER_RSA = (rsa.generate_private_key(65537, 2048) for _ in range(2))


def site(
    settings: SiteSettings | None = None,
    secrets: tuple[Secret | bytes, ...] = (SECRET,),
    keys: dict[bytes, ServerKey] | None = None,
    name: str = "news",
) -> Site:
    return Site(
        name,
        site_stream_id(name),
        settings or SiteSettings(),
        0,
        tuple(one if isinstance(one, Secret) else Secret("HS256", one) for one in secrets),
        keys or {},
        GUESTS,
    )


def public(key: ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def caller_of(given: str, at: Site | None = None) -> Caller:
    return Verifier().caller(at or site(), f"Bearer {given}")


def claims(**changed: object) -> dict[str, Any]:
    given = {"iss": "news", "sub": "u-1", "exp": int(time.time()) + 300} | changed
    return {name: value for name, value in given.items() if value is not ...}


def token(secret: bytes = SECRET, algorithm: str = "HS256", **changed: Any) -> str:
    if algorithm == "HS256":
        return hs256_with(secret, **changed)
    return jwt.encode(claims(**changed), secret, algorithm=algorithm)


def hs256_with(secret: bytes, **changed: Any) -> str:
    """An HS256 token by any secret and with any claims: PyJWT itself is particular about both."""
    header = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")
    payload = base64.urlsafe_b64encode(json.dumps(claims(**changed)).encode()).rstrip(b"=")
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        header + b"." + payload, secret
    )
    return b".".join((header, payload, base64.urlsafe_b64encode(signature).rstrip(b"="))).decode()


def unsigned(header: dict[str, object], payload: object) -> str:
    parts = [base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, payload)]
    return (b".".join(parts) + b".").decode()


def code_of(given: str, at: Site | None = None) -> str:
    with pytest.raises(Problem) as refused:
        caller_of(given, at)
    assert refused.value.status == 401
    assert len(given) < 3 or given not in str(refused.value)
    return refused.value.code


def test_a_token_names_its_caller() -> None:
    caller = caller_of(
        token(name="Ann", avatar="https://a.example/a.png", email="a@b.example", roles=["moderator", "x"]),
    )
    assert (caller.id, caller.name, caller.avatar) == ("u-1", "Ann", "https://a.example/a.png")
    assert (caller.moderator, caller.admin) == (True, False)


def test_without_a_name_the_sub_is_the_name() -> None:
    assert caller_of(token()).name == "u-1"


def test_an_admin_may_moderate() -> None:
    caller = caller_of(token(roles=["admin"]))
    assert caller.moderator
    assert caller.admin


def test_the_operator_role_comes_with_no_token() -> None:
    caller = caller_of(token(roles=["operator"]))
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
        {"exp": True},
        {"exp": False},
        {"exp": None},
        {"exp": -1},
        {"nbf": True},
        {"nbf": "now"},
        {"iss": ["news"]},
        {"iss": ...},
        {"iss": "blog"},
        {"nbf": 4_000_000_000},
        {"name": "x" * 101},
        {"name": "a\nb"},
        {"name": ["Ann"]},
        {"avatar": "javascript:alert(1)"},
        {"email": "nobody"},
        {"email": "a@b@c.example"},
        {"email": "a b@c.example"},
        {"email": "a@b.example\n"},
        {"email": "a\u0000@b.example"},
        {"email": f"{'a' * 250}@b.example"},
        {"roles": "admin"},
        {"roles": [1]},
    ],
    ids=repr,
)
def test_claims_out_of_shape_name_nobody(changed: dict[str, Any]) -> None:
    assert code_of(token(**changed)) == "token-invalid"


def test_an_expired_token_says_so_after_half_a_minute() -> None:
    assert code_of(token(exp=int(time.time()) - 31)) == "token-expired"
    assert caller_of(token(exp=int(time.time()) - 25)).id == "u-1"


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
    assert caller_of(token(), both).id == "u-1"
    assert caller_of(token(secret=OTHER), both).id == "u-1"


def test_issuer_and_audience_are_the_sites() -> None:
    strict = site(SiteSettings(token_issuer="https://id.example", token_audience="comments"))
    assert caller_of(token(iss="https://id.example", aud="comments"), strict).id == "u-1"
    assert caller_of(token(aud=["other", "comments"]), strict).id == "u-1"
    assert code_of(token(), strict) == "token-invalid"
    assert code_of(token(aud="other"), strict) == "token-invalid"
    assert code_of(token(iss="https://other.example", aud="comments"), strict) == "token-invalid"


def test_an_audience_is_of_no_interest_to_a_site_without_one() -> None:
    assert caller_of(token(aud="anything")).id == "u-1"


def test_a_remembered_token_is_forgotten_with_its_key_and_its_audience() -> None:
    verifier, given = Verifier(), f"Bearer {token()}"
    first = verifier.caller(site(), given)
    assert verifier.caller(site(), given) is first
    for changed in (
        site(secrets=(OTHER,)),
        site(secrets=()),
        site(SiteSettings(token_audience="comments")),
        site(name="blog"),
    ):
        with pytest.raises(Problem):
            verifier.caller(changed, given)
    other = site(SiteSettings(token_issuer="https://id.example"))
    assert verifier.caller(other, given) is not first


def test_a_token_of_one_site_is_not_remembered_at_another() -> None:
    verifier, given = Verifier(), f"Bearer {token()}"
    verifier.caller(site(), given)
    with pytest.raises(Problem):
        verifier.caller(site(name="blog"), given)


def test_a_remembered_token_expires_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    verifier, now = Verifier(), time.time()
    given = f"Bearer {token(exp=int(now) + 10)}"
    verifier.caller(site(), given)
    monkeypatch.setattr(time, "time", lambda: now + 10 + LEEWAY + 1)
    with pytest.raises(Problem) as refused:
        verifier.caller(site(), given)
    assert refused.value.code == "token-expired"


def test_only_so_many_tokens_are_remembered() -> None:
    verifier = Verifier(limit=2)
    first = verifier.caller(site(), oldest := f"Bearer {token(sub='u-1')}")
    for number in (2, 3):
        verifier.caller(site(), f"Bearer {token(sub=f'u-{number}')}")
    again = verifier.caller(site(), oldest)
    assert again == first
    assert again is not first


def test_only_so_many_characters_are_remembered() -> None:
    headers = [f"Bearer {token(sub=f'u-{number}', more='x' * 1000)}" for number in range(3)]
    verifier = Verifier(characters=2 * len(headers[0]))
    first, second, third = (verifier.caller(site(), header) for header in headers)
    assert verifier.caller(site(), headers[2]) is third
    assert verifier.caller(site(), headers[1]) is second
    assert verifier.caller(site(), headers[0]) is not first


# --- algorithms -------------------------------------------------------------------------------------------

PAIRS: dict[str, ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey] = {"EdDSA": ED25519, "RS256": RSA}


@pytest.mark.parametrize("algorithm", PAIRS)
def test_a_site_signs_with_a_key_pair(algorithm: str) -> None:
    pair = PAIRS[algorithm]
    at = site(secrets=(Secret(algorithm, public(pair)),))
    given = jwt.encode(claims(roles=["moderator"]), pair, algorithm=algorithm)
    assert caller_of(given, at).moderator
    other = ed25519.Ed25519PrivateKey.generate() if algorithm == "EdDSA" else OTHER_RSA
    assert code_of(jwt.encode(claims(), other, algorithm=algorithm), at) == "token-invalid"
    assert code_of(token(), at) == "token-invalid"


@pytest.mark.parametrize("algorithm", PAIRS)
def test_a_public_key_is_no_hmac_secret(algorithm: str) -> None:
    assert caller_of(hs256_with(SECRET)).id == "u-1"
    pem = public(PAIRS[algorithm])
    assert code_of(hs256_with(pem), site(secrets=(Secret(algorithm, pem),))) == "token-invalid"


def test_each_key_keeps_its_own_algorithm_while_two_live() -> None:
    both = site(secrets=(Secret("EdDSA", public(ED25519)), Secret("RS256", public(RSA))))
    assert caller_of(jwt.encode(claims(), ED25519, algorithm="EdDSA"), both).id == "u-1"
    assert caller_of(jwt.encode(claims(), RSA, algorithm="RS256"), both).id == "u-1"
    for algorithm in ("RS384", "RS512", "PS256"):
        assert code_of(jwt.encode(claims(), RSA, algorithm=algorithm), both) == "token-invalid"
    assert code_of(token(), both) == "token-invalid"


# --- guests -----------------------------------------------------------------------------------------------


def guest_token(secret: Secret = GUESTS, **changed: Any) -> str:
    return sign(secret, claims(**({"sub": "guest:7", "name": "Gil"} | changed)))


def test_a_guests_token_names_a_guest() -> None:
    caller = caller_of(guest_token(roles=["admin"]))
    assert (caller.id, caller.name, caller.guest) == ("guest:7", "Gil", True)
    assert (caller.moderator, caller.admin, caller.operator) == (False, False, False)
    assert not caller_of(token()).guest


def test_what_signs_for_guests_signs_for_nobody_else() -> None:
    assert code_of(guest_token(sub="u-1")) == "token-invalid"
    assert code_of(guest_token(Secret("HS256", SECRET))) == "token-invalid"
    assert code_of(guest_token(), site(name="blog")) == "token-invalid"


def test_a_guests_token_is_ours_whatever_issuer_and_audience_the_site_sets() -> None:
    strict = SiteSettings(token_issuer="https://id.example", token_audience="comments")
    assert caller_of(guest_token(), site(strict)).guest
    assert code_of(guest_token(iss="https://id.example"), site(strict)) == "token-invalid"


# --- server keys ------------------------------------------------------------------------------------------

KEY = "tl_0123456789abcdefghijABCDEFGHIJ_-0123456789a"
KEY_ID = UUID("0b9f3c1e-5a43-4c0c-9d0e-6b1f4f9f7a55")


def with_key(*roles: str, name: str | None = None) -> Site:
    return site(keys={key_hash(KEY): ServerKey(KEY_ID, name, frozenset(roles))})


@pytest.mark.parametrize(
    ("roles", "moderator", "admin", "operator"),
    [
        ((), False, False, False),
        (("moderator",), True, False, False),
        (("admin",), True, True, False),
        (("operator",), False, False, True),
        (("operator", "moderator"), True, False, True),
    ],
)
def test_a_server_key_has_the_roles_it_was_given(
    roles: tuple[str, ...], moderator: bool, admin: bool, operator: bool
) -> None:
    caller = caller_of(KEY, with_key(*roles))
    assert (caller.id, caller.name) == (f"key:{KEY_ID}", f"key:{KEY_ID}")
    assert (caller.moderator, caller.admin, caller.operator) == (moderator, admin, operator)
    acting = acting_as(caller, "u-1")
    assert (acting.id, acting.name) == ("u-1", "u-1")
    assert (acting.moderator, acting.admin, acting.operator) == (moderator, admin, operator)
    assert acting.reader.author_id == "u-1"
    assert (acting.actor.id, acting.actor.moderator) == ("u-1", moderator)


def test_a_server_key_is_remembered_until_its_site_changes() -> None:
    verifier, header, at = Verifier(), f"Bearer {KEY}", with_key("admin")
    first = verifier.caller(at, header)
    assert verifier.caller(at, header) is first
    assert not verifier.caller(with_key("operator"), header).admin
    with pytest.raises(Problem):
        verifier.caller(site(), header)


def test_a_server_key_signs_with_its_name() -> None:
    assert caller_of(KEY, with_key(name="Imports")).name == "Imports"


def test_a_server_key_is_known_by_all_of_it() -> None:
    for given in (KEY[:-1], KEY + "x", KEY.swapcase(), "tl_", "tl_\udc80", KEY.removeprefix("tl_")):
        assert code_of(given, with_key()) == "token-invalid"
    assert code_of(KEY) == "token-invalid"


@pytest.mark.parametrize(
    "sub", ["", "guest:1", "key:1", "import:1", "x" * 256, "a\u0001", "\u200b", "\udcff"], ids=ascii
)
def test_a_server_key_acts_as_nobody_whom_no_token_names(sub: str) -> None:
    with pytest.raises(Problem) as refused:
        acting_as(caller_of(KEY, with_key()), sub)
    assert refused.value.code == "bad-header"


@pytest.mark.parametrize("given", ["nobody", "jwt", "guest"])
def test_only_a_server_key_acts_as_somebody(given: str) -> None:
    # Made here and not with the list of tests: a token expires while other tests run.
    tokens = {"jwt": token(roles=["admin"]), "guest": guest_token()}
    caller = caller_of(tokens[given]) if given in tokens else None
    with pytest.raises(Problem) as refused:
        acting_as(caller, "u-2")
    assert refused.value.code == "bad-header"


# --- the header -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Basic YTpi", "abc"])
def test_only_bearer_signs_in(header: str) -> None:
    with pytest.raises(Problem) as refused:
        bearer(header)
    assert refused.value.code == "token-invalid"


def test_the_scheme_is_written_as_one_likes() -> None:
    assert bearer("bearer  abc") == "abc"
