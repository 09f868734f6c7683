"""Which content coding a client takes best (RFC 9110, section 12.5.3)."""

from __future__ import annotations

import gzip

import brotli
import pytest
import zstandard

from services.api.pages.encodings import CODINGS, SMALLEST, encoded, taken


@pytest.mark.parametrize(
    ("header", "coding"),
    [
        (None, "identity"),
        ("", "identity"),
        ("gzip", "gzip"),
        ("GZIP", "gzip"),
        ("x-gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip, deflate, br", "br"),
        ("deflate", "identity"),
        ("*", "zstd"),
        ("zstd;q=0, *", "br"),
        ("*;q=0.5, gzip", "gzip"),
        ("gzip;q=1.0, br;q=0.9, zstd;q=0.8", "gzip"),
        ("gzip;q=0.5, br;q=0.5", "br"),
        ("br ; q=0.7 ,gzip;q=0.2", "br"),
        ("gzip;q=0", "identity"),
        ("gzip;q=0.000", "identity"),
        ("identity, gzip", "gzip"),
        ("identity;q=1, gzip;q=0.5", "identity"),
        ("identity;q=0.5, gzip;q=0.5", "gzip"),
        ("identity;q=0", "identity"),
        ("identity;q=0, gzip;q=0.1", "gzip"),
        ("*;q=0", "identity"),
        ("gzip;q=2", "identity"),
        ("gzip;q=", "identity"),
        ("gzip;quality=1", "identity"),
        ("br;q=x, gzip", "gzip"),
        (",, gzip,", "gzip"),
    ],
)
def test_the_coding_is_the_one_that_the_client_takes_best(header: str | None, coding: str) -> None:
    assert taken(header).coding == coding


def test_a_small_body_goes_as_it_is_unless_the_client_refuses_that() -> None:
    assert taken("gzip").of(SMALLEST - 1) == "identity"
    assert taken("gzip").of(SMALLEST) == "gzip"
    assert taken("gzip, identity;q=0").of(1) == "gzip"
    assert taken("gzip, *;q=0").of(1) == "gzip"
    assert taken("br;q=0, identity;q=0").of(1) == "identity"


def test_each_coding_gives_the_body_back_and_is_the_same_each_time() -> None:
    body = b'{"comments": []}' * 1000
    opened = {
        "identity": bytes,
        "gzip": gzip.decompress,
        "br": brotli.decompress,
        "zstd": zstandard.ZstdDecompressor().decompress,
    }
    assert set(opened) == set(CODINGS)
    for coding in CODINGS:
        made = encoded(body, coding)
        assert opened[coding](made) == body
        assert encoded(body, coding) == made
        assert (len(made) < len(body)) is (coding != "identity")
