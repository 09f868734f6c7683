"""Checking a JWT: whose signature, which claims (RFC 7519; RFC 8725 on how not to).

The algorithm is the one that the site's key was added with, never the one that a token asks for, so that
`alg: none` and a public key used as an HMAC secret get nowhere (RFC 8725, section 3.1).
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Annotated, Any, Final

import jwt
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.api.problems import Problem
from services.core.commands import GUEST
from services.core.text import (
    NAME_CODE_POINTS,
    SUB_CODE_POINTS,
    TextRefused,
    check_email,
    check_url,
    normalise_line,
)
from services.eventlog.sites import Secret, Site

MAX_TOKEN: Final = 4096
"""The longest token, in bytes."""
LEEWAY: Final = 30
"""How far the site's clock and ours may differ, in seconds."""
RESERVED: Final = (GUEST, "key:", "import:")
"""No site's own `sub` begins with these: such authors come from elsewhere."""

_LAST_SECOND: Final = 253_402_300_799
_REFUSED: Final = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
"""What PyJWT lets through of a token out of shape, such as a header nested a thousand deep."""
_JWS: Final = jwt.PyJWS()

Seconds = Annotated[int | float, Field(ge=0, le=_LAST_SECOND, allow_inf_nan=False)]


class Claims(BaseModel):
    """What is read of a token. Other claims are the site's own business."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    iss: str
    sub: Annotated[str, Field(min_length=1)]
    exp: Seconds
    nbf: Seconds = 0
    aud: object = None
    name: str | None = None
    avatar: str | None = None
    email: str | None = None
    roles: Annotated[list[str], Field(max_length=100)] = []


def claims_of(site: Site, token: str) -> Claims:
    """What `token` says, its texts as they are stored, where the site or we for its guests have signed it.

    A guest's `sub` begins with `guest:`, and nobody else's. Raises Problem `token-invalid`; `token-expired`
    only for a token that is right in all else, so that a client knows that a new one will do.
    """
    raw, guest = _signed(site, token)
    try:
        given = Claims.model_validate(raw)
        claims = given.model_copy(update=_texts(given))
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        name = ".".join(map(str, first["loc"][:1]))
        reason = f"has no claim {name}" if first["type"] == "missing" else f"has a claim out of shape: {name}"
        raise invalid(reason) from None
    except TextRefused as refused:
        raise invalid(f"has a claim out of shape: {refused.reason}") from None
    if guest != claims.sub.startswith(GUEST) or (not guest and claims.sub.startswith(RESERVED)):
        raise invalid("has a reserved sub")
    issuer, audience = site.settings.token_issuer, site.settings.token_audience
    if claims.iss != site.name and (guest or issuer is None or claims.iss != issuer):
        raise invalid("was issued for another site")
    if audience is not None and not guest and not _for(audience, claims.aud):
        raise invalid("was issued for another audience")
    now = time.time()
    if claims.nbf > now + LEEWAY:
        raise invalid("is not valid yet")
    if claims.exp + LEEWAY <= now:
        raise Problem("token-expired", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'})
    return claims


def sign(secret: Secret, claims: dict[str, Any]) -> str:
    """A JWT with these claims, by HS256. Raises TypeError for half of a surrogate pair in one of them.

    Its JSON is UTF-8: escaped, a name in another script than ours would not fit into a token.
    """
    return _JWS.encode(orjson.dumps(claims), secret.key, secret.algorithm)


def invalid(reason: str) -> Problem:
    """A 401 for a token that names nobody."""
    return Problem(
        "token-invalid", f"the token {reason}", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}
    )


def _signed(site: Site, token: str) -> tuple[Any, bool]:
    """The payload, and whether it is a guest's."""
    try:
        encoded = token.encode("ascii")
    except UnicodeEncodeError:
        raise invalid("is not a JWT") from None
    if len(encoded) > MAX_TOKEN:
        raise invalid(f"is longer than {MAX_TOKEN:,} bytes")
    guests = () if site.guest_secret is None else (site.guest_secret, *site.other_guest_secrets)
    for secret in (*site.secrets, *guests):
        try:
            key = secret.key if secret.algorithm == "HS256" else _public_key(secret)
            return orjson.loads(_JWS.decode(encoded, key, [secret.algorithm])), secret in guests
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError, jwt.InvalidKeyError):
            continue  # perhaps it was signed with another of these keys
        except _REFUSED:
            raise invalid("is not a JWT of the right shape") from None
    raise invalid("is not signed with the site's key")


@lru_cache(maxsize=1000)
def _public_key(secret: Secret) -> Any:
    """The key out of its PEM, which takes longer to read than a signature to check."""
    return _JWS.get_algorithm_by_name(secret.algorithm).prepare_key(secret.key)


def _texts(claims: Claims) -> dict[str, str]:
    """The claims that are texts, normalised. Raises TextRefused."""
    texts = {"sub": normalise_line(claims.sub, what="sub", limit=SUB_CODE_POINTS)}
    if claims.name is not None:
        texts["name"] = normalise_line(claims.name, what="name", limit=NAME_CODE_POINTS)
    if claims.avatar is not None:
        texts["avatar"] = check_url(claims.avatar)
    if claims.email is not None:
        texts["email"] = check_email(claims.email)
    return texts


def _for(audience: str, given: object) -> bool:
    """Whether a token's `aud`, one or several, names the audience (RFC 7519, section 4.1.3)."""
    return given == audience or (isinstance(given, list) and audience in given)
