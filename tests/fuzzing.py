"""How much fuzzing: a short, seeded form with every run, a long one, drawn anew each time, where
`THREADLOG_TEST_EXAMPLES` says how many examples of each."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_ASKED = os.environ.get("THREADLOG_TEST_EXAMPLES")


def fuzz(short: int) -> settings:
    """Settings for a test that takes `short` examples in its short form."""
    return settings(
        max_examples=short if _ASKED is None else int(_ASKED),
        derandomize=_ASKED is None,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
