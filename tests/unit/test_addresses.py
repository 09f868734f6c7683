"""Thread keys, site names and ids (contract, section 1)."""

import base64
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID, uuid4

import pytest

from services.core.addresses import (
    BadAddress,
    check_site,
    check_thread_key,
    decode_thread_key,
    encode_thread_key,
    event_id_at,
    lane_of,
    new_event_id,
    parse_comment_id,
    site_stream_id,
    thread_stream_id,
)


def tilde(key: bytes) -> str:
    return "~" + base64.urlsafe_b64encode(key).rstrip(b"=").decode()


@pytest.mark.parametrize(
    ("segment", "key"),
    [
        ("article-17", "article-17"),
        ("2015%2F09%2Ftalk-therapy", "2015/09/talk-therapy"),
        ("https%3a%2f%2fa.b%2f%3Fc", "https://a.b/?c"),
        ("caf%C3%A9", "café"),
        ("cafe%CC%81", "cafe\u0301"),
        ("%25FF", "%FF"),
        ("%2525", "%25"),
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("...", "..."),
        ("a~b", "a~b"),
        ("%F0%9F%98%80", "😀"),
        (tilde(b"article-17"), "article-17"),
        (tilde(b"~x"), "~x"),
        ("%7E" + tilde(b"a/b")[1:], "a/b"),
        (b"a%2Fb", "a/b"),
        ("caf\udcc3\udca9", "café"),
    ],
)
def test_a_path_segment_names_a_key(segment: str | bytes, key: str) -> None:
    assert decode_thread_key(segment) == key


@pytest.mark.parametrize(
    "segment",
    [
        "",
        ".",
        "..",
        "%2E",
        "%2e%2E",
        "%FF",
        "%C3",
        "%C0%AF",
        "%ED%A0%80",
        "%F5%80%80%80",
        "%",
        "%2",
        "%GG",
        "a%zz",
        "% 20",
        "%+1",
        "%00",
        "a%0A",
        "%7F",
        "%C2%85",
        "%C2%9F",
        "a/b",
        chr(0xD800),
        chr(0xDCFF),
        b"\xff",
        "\x00",
        "~",
        "~=",
        "~YQ==",
        "~YQ=",
        "~Y",
        "~YR",
        "~YWJj+",
        "~YW/j",
        "~YW%2Fj",
        "~Y Q",
        "~YQ\n",
        "~é",
        tilde(b"\xff"),
        tilde(b"."),
        tilde(b".."),
        tilde(b"a\x00"),
        "a" * 513,
        "%61" * 513,
        tilde(b"a" * 513),
        "é" * 257,
        "%C3%A9" * 257,
    ],
)
def test_other_segments_are_refused(segment: str | bytes) -> None:
    with pytest.raises(BadAddress):
        decode_thread_key(segment)


def test_a_key_has_at_most_512_bytes() -> None:
    assert decode_thread_key("a" * 512) == "a" * 512
    assert decode_thread_key("%C3%A9" * 256) == "é" * 256
    assert decode_thread_key(tilde(b"a" * 512)) == "a" * 512


def test_a_key_is_sent_percent_encoded_or_after_a_tilde() -> None:
    assert encode_thread_key("2015/09/talk") == "2015%2F09%2Ftalk"
    assert encode_thread_key("%FF é+") == "%25FF%20%C3%A9%2B"
    assert encode_thread_key("~x") == tilde(b"~x")
    with pytest.raises(BadAddress):
        encode_thread_key("..")


@pytest.mark.parametrize("key", ["", ".", "..", "\ud800", "a\n", "a\x85", "é" * 257])
def test_what_cannot_be_a_key_is_refused(key: str) -> None:
    with pytest.raises(BadAddress):
        check_thread_key(key)


@pytest.mark.parametrize("name", ["a", "0", "blog", "example.org", "a_b-c.d", "a" * 63])
def test_a_site_is_named_by_lower_case_letters_digits_and_marks(name: str) -> None:
    assert check_site(name) == name


@pytest.mark.parametrize("name", ["", "A", ".a", "-a", "_a", "a" * 64, "a/b", "a b", "é", "a\n", "٣", "a:b"])
def test_other_site_names_are_refused(name: str) -> None:
    with pytest.raises(BadAddress):
        check_site(name)


def test_stream_ids_never_change() -> None:
    assert thread_stream_id("blog", "a") == UUID("de08c2f3-72c2-5132-aea9-233e7936e39a")
    assert site_stream_id("blog") == UUID("10122dc1-f06e-53c6-b2fd-2a30c3a06113")


def test_threads_and_sites_have_streams_of_their_own() -> None:
    ids = [
        thread_stream_id("a", "b"),
        thread_stream_id("a", "/b"),
        thread_stream_id("a", "b/"),
        thread_stream_id("ab", "b"),
        thread_stream_id("a", "cafe\u0301"),
        thread_stream_id("a", "café"),
        site_stream_id("a"),
        site_stream_id("b"),
    ]
    assert len(set(ids)) == len(ids)


def test_a_lane_is_the_last_four_bytes_modulo_the_lanes() -> None:
    assert lane_of(UUID("00000000-0000-5000-8000-000000000107"), 4) == 3
    assert lane_of(UUID("ffffffff-ffff-5fff-bfff-ffff00000000"), 7) == 0
    with pytest.raises(ValueError, match="at least one lane"):
        lane_of(uuid4(), 0)


def test_the_threads_of_a_site_spread_over_all_lanes() -> None:
    taken = [lane_of(thread_stream_id("blog", str(number)), 4) for number in range(1_000)]
    assert all(taken.count(lane) > 200 for lane in range(4))


def test_an_event_id_is_laid_out_as_rfc_9562_has_it() -> None:
    # The example of RFC 9562, appendix A.6.
    random = bytes.fromhex("0330d8c4dc0c0c07398f")
    assert new_event_id(0x017F22E279B0, random) == UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")


@pytest.mark.parametrize("random", [bytes(10), b"\xff" * 10, bytes(range(10))])
def test_an_event_id_is_a_uuid_of_version_7_that_begins_with_its_time(random: bytes) -> None:
    made = new_event_id(1_700_000_000_123, random)
    assert (made.version, made.variant) == (7, "specified in RFC 4122")
    assert made.int >> 80 == 1_700_000_000_123


@pytest.mark.parametrize(("unix_ms", "size"), [(-1, 10), (1 << 48, 10), (0, 9), (0, 11)])
def test_an_event_id_of_another_time_or_size_is_refused(unix_ms: int, size: int) -> None:
    with pytest.raises(ValueError, match="a UUIDv7"):
        new_event_id(unix_ms, bytes(size))


def test_an_imported_event_gets_the_same_id_again() -> None:
    when = datetime(2015, 9, 1, 12, 0, 0, 123_999, tzinfo=UTC)
    first = event_id_at(when, b"wxr/42")
    assert first == event_id_at(when.astimezone(timezone(timedelta(hours=5))), b"wxr/42")
    assert first != event_id_at(when, b"wxr/43")
    assert first.int >> 80 == 1_441_108_800_123
    assert parse_comment_id(str(first)) == first


def test_an_imported_event_from_before_1970_counts_as_of_1970() -> None:
    assert event_id_at(datetime(1, 1, 1, tzinfo=UTC), b"").int >> 80 == 0


def test_an_imported_event_needs_a_time_zone() -> None:
    with pytest.raises(ValueError, match="has a zone"):
        event_id_at(datetime(2015, 9, 1, tzinfo=UTC).replace(tzinfo=None), b"")


def test_a_comment_id_is_read_in_either_case() -> None:
    made = new_event_id(1_700_000_000_123, bytes(range(10)))
    assert parse_comment_id(str(made)) == made
    assert parse_comment_id(str(made).upper()) == made


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "x",
        "017f22e279b07cc398c4dc0c0c07398f",
        "{017f22e2-79b0-7cc3-98c4-dc0c0c07398f}",
        "a" * 36,
        "017f22e2-79b0-4cc3-98c4-dc0c0c07398f",
        "017f22e2-79b0-7cc3-18c4-dc0c0c07398f",
        "017f22e2-79b0-7cc3-98c4-dc0c0c07398f\n",
        " 017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        "017f22e279b0-7cc3-98c4-dc0c0c07398f-",
        "urn:uuid:017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        "\u066017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        "017f22e2_79b0_7cc3_98c4_dc0c0c07398f",
    ],
)
def test_other_spellings_are_no_comment_ids(raw: str) -> None:
    assert parse_comment_id(raw) is None
