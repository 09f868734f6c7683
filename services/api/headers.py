"""Headers that every answer has, and those that let a browser's page of another origin read it."""

from __future__ import annotations

from typing import Final

from aiohttp import hdrs
from multidict import CIMultiDict, istr

THREADLOG_VERSION: Final = istr("Threadlog-Version")
THREADLOG_STALE: Final = istr("Threadlog-Stale")
X_REQUEST_ID: Final = istr("X-Request-ID")
CSP: Final = istr("Content-Security-Policy")
NOTHING: Final = "default-src 'none'; frame-ancestors 'none'"
"""An answer is data: a browser that is made to show one runs nothing of it, and shows it in no frame."""
EVERYWHERE: Final = CIMultiDict(
    {
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        hdrs.SERVER: "threadlog",
        hdrs.VARY: "Authorization, Accept-Encoding, Origin",
    }
)
EXPOSED: Final = (
    "ETag, Location, RateLimit, RateLimit-Policy, Retry-After, Threadlog-Stale, Threadlog-Version, "
    "X-Request-ID"
)
JSON: Final = "application/json"

PUBLIC: Final = "public, max-age=1, stale-while-revalidate=10"
"""Of what everybody is shown. A cache between us and the readers asks at most once a second, and one reader
in need of it never waits for another's: what is older than a second is sent once more while it asks, within
ten seconds (RFC 5861). Who has written reads with `min_version`, which is another address to a cache."""
PRIVATE: Final = "private, no-cache"
"""Of what is shown to somebody signed in: kept by their browser, which asks each time whether it holds."""
