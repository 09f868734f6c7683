"""Who sends a request: the JWT that a site signs for its own people (contract, section 6).

The algorithm is the one that the site's key was added with, never the one that a token asks for, so that
`alg: none` and a public key used as an HMAC secret get nowhere (RFC 8725, section 3.1).
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Annotated, Any, Final

import jwt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.api.problems import Problem
from services.core.commands import Actor
from services.core.pagejson import Reader
from services.core.text import NAME_CODE_POINTS, SUB_CODE_POINTS, TextRefused, check_url, normalise_line
from services.eventlog.sites import Secret, Site

MAX_TOKEN: Final = 4096
"""The longest token, in bytes."""
LEEWAY: Final = 30
"""How far the site's clock and ours may differ, in seconds."""
RESERVED: Final = ("guest:", "key:", "import:")
"""No token's `sub` begins with these: such authors come from elsewhere."""
_LAST_SECOND: Final = 253_402_300_799
_REFUSED: Final = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError)
"""What PyJWT lets through of a token out of shape: an `exp` of Infinity, a header nested a thousand deep."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody signed in. `expires` is in Unix seconds."""

    id: str
    name: str
    avatar: str | None
    moderator: bool
    admin: bool
    expires: float

    @property
    def actor(self) -> Actor:
        """As the sender of a command."""
        return Actor(self.id, self.moderator)

    @property
    def reader(self) -> Reader:
        """As the reader of a page."""
        return Reader(self.id, self.moderator)


class _Claims(BaseModel):
    """What is read of a token. Other claims are the site's own business."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    sub: Annotated[str, Field(min_length=1)]
    exp: Annotated[int | float, Field(ge=0, le=_LAST_SECOND, allow_inf_nan=False)]
    name: str | None = None
    avatar: str | None = None
    email: Annotated[str, Field(min_length=3, max_length=254, pattern=r"^[^@\s]+@[^@\s]+$")] | None = None
    roles: Annotated[list[str], Field(max_length=100)] = []


@dataclass(frozen=True, slots=True)
class _Kept:
    caller: Caller
    secrets: tuple[Secret, ...]
    issuer: str | None
    audience: str | None


class Verifier:
    """Verifies tokens, and remembers the verified ones by their SHA-256 until they expire."""

    def __init__(self, limit: int = 20_000) -> None:
        self._limit = limit
        self._kept: OrderedDict[tuple[str, bytes], _Kept] = OrderedDict()

    def caller(self, site: Site, token: str) -> Caller:
        """Who `token` names at `site`. Raises Problem `token-invalid` or `token-expired`."""
        try:
            encoded = token.encode("ascii")
        except UnicodeEncodeError:
            raise _invalid("is not a JWT") from None
        if len(encoded) > MAX_TOKEN:
            raise _invalid(f"is longer than {MAX_TOKEN:,} bytes")
        name = (site.name, hashlib.sha256(encoded).digest())
        kept = self._kept.get(name)
        settings = site.settings
        if kept is not None:
            if (
                kept.secrets == site.secrets
                and kept.issuer == settings.token_issuer
                and kept.audience == settings.token_audience
                and time.time() < kept.caller.expires + LEEWAY
            ):
                self._kept.move_to_end(name)
                return kept.caller
            del self._kept[name]
        caller = _caller(_decode(site, encoded))
        self._kept[name] = _Kept(caller, site.secrets, settings.token_issuer, settings.token_audience)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return caller


def bearer(header: str) -> str:
    """The token in an Authorization header. Raises Problem `token-invalid`."""
    scheme, _, token = header.partition(" ")
    if scheme.lower() != "bearer" or not token.strip():
        raise _invalid("is not given as `Authorization: Bearer`")
    return token.strip()


def _invalid(reason: str) -> Problem:
    return Problem(
        "token-invalid", f"the token {reason}", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}
    )


def _decode(site: Site, token: bytes) -> dict[str, Any]:
    issuers = [site.name]
    if site.settings.token_issuer is not None:
        issuers.append(site.settings.token_issuer)
    audience = site.settings.token_audience
    for secret in site.secrets:
        try:
            return jwt.decode(
                token,
                secret.key,
                algorithms=[secret.algorithm],
                issuer=issuers,
                audience=audience,
                leeway=LEEWAY,
                options={
                    "require": ["exp", "iss", "sub"],
                    "verify_aud": audience is not None,
                    "verify_iat": False,
                    "verify_jti": False,
                },
            )
        except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError, jwt.InvalidKeyError):
            continue  # perhaps it was signed with the site's other key
        except jwt.ExpiredSignatureError:
            raise Problem(
                "token-expired", headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}
            ) from None
        except jwt.ImmatureSignatureError:
            raise _invalid("is not valid yet") from None
        except jwt.InvalidIssuerError:
            raise _invalid("was issued for another site") from None
        except jwt.InvalidAudienceError:
            raise _invalid("was issued for another audience") from None
        except jwt.MissingRequiredClaimError as error:
            raise _invalid(f"has no claim {error.claim}") from None
        except _REFUSED:
            raise _invalid("is not a JWT of the right shape") from None
    raise _invalid("is not signed with the site's key")


def _caller(raw: dict[str, Any]) -> Caller:
    try:
        claims = _Claims.model_validate(raw)
        sub = normalise_line(claims.sub, what="sub", limit=SUB_CODE_POINTS)
        name = sub if claims.name is None else claims.name
        if claims.name is not None:
            name = normalise_line(claims.name, what="name", limit=NAME_CODE_POINTS)
        avatar = None if claims.avatar is None else check_url(claims.avatar)
    except ValidationError as error:
        where = ".".join(map(str, error.errors(include_input=False)[0]["loc"][:1]))
        raise _invalid(f"has a claim out of shape: {where}") from None
    except TextRefused as refused:
        raise _invalid(f"has a claim out of shape: {refused.reason}") from None
    if sub.startswith(RESERVED):
        raise _invalid("has a reserved sub")
    admin = "admin" in claims.roles
    return Caller(
        id=sub,
        name=name[:NAME_CODE_POINTS],
        avatar=avatar,
        moderator=admin or "moderator" in claims.roles,
        admin=admin,
        expires=float(claims.exp),
    )
