"""Letting a write in, or refusing it with 429, and what its answer says of its limits."""

from __future__ import annotations

from typing import Final

from aiohttp import web
from multidict import istr

from services.api.limits.limiter import Limiter
from services.api.limits.policy import Charge
from services.api.problems import Problem

RATE_LIMITS: Final = web.RequestKey("rate_limits", tuple[str, str])
"""The values of `RateLimit-Policy` and `RateLimit` for the answer to a write that was charged."""
RATELIMIT: Final = istr("RateLimit")
RATELIMIT_POLICY: Final = istr("RateLimit-Policy")


async def admit(request: web.Request, limiter: Limiter, charge: Charge) -> None:
    """Charge a write. Raises Problem `rate-limited`."""
    used = await limiter.decide(charge)
    policy = charge.policy
    if used[0] >= 0:
        request[RATE_LIMITS] = (policy.header, policy.left(used))
        return
    request[RATE_LIMITS] = (policy.header, policy.left([-1 - taken for taken in used]))
    kinds, seconds = limiter.refused_by(policy, used)
    raise Problem(
        "rate-limited",
        f"too many writes for one {' and one '.join(kinds)}: the next in {seconds} s",
        headers={"Retry-After": str(seconds)},
    )
