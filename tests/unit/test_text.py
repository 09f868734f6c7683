"""The text rules of the contract, section 3."""

import sys
import unicodedata

import pytest

from services.core import text
from services.core.text import (
    TextRefused,
    check_email,
    check_url,
    normalise_body,
    normalise_detail,
    normalise_line,
)


def title(raw: str) -> str:
    return normalise_line(raw, what="the title", limit=text.TITLE_CODE_POINTS)


def test_an_ascii_body_passes_unchanged() -> None:
    assert normalise_body("\tOne line,\nand another.  \n") == "\tOne line,\nand another.  \n"


def test_line_ends_become_newlines() -> None:
    assert normalise_body("a\r\nb\rc\n\r\nd") == "a\nb\nc\n\nd"


def test_texts_become_nfc() -> None:
    assert normalise_body("cafe\u0301") == "café"
    assert title("cafe\u0301") == "café"
    assert normalise_detail("cafe\u0301") == "café"


@pytest.mark.parametrize("control", ["\x00", "\x01", "\x0b", "\x0c", "\x1b", "\x7f", "\x80", "\x85", "\x9f"])
@pytest.mark.parametrize("around", ["ab", "äb"])
def test_control_characters_are_refused_everywhere(control: str, around: str) -> None:
    for accept in (normalise_body, normalise_detail, title):
        with pytest.raises(TextRefused, match="control character"):
            accept(around + control)


@pytest.mark.parametrize("half", [chr(0xD800), chr(0xDFFF), f"a{chr(0xDC80)}b"])
def test_lone_surrogates_are_refused(half: str) -> None:
    for accept in (normalise_body, normalise_detail, title, check_url):
        with pytest.raises(TextRefused, match="surrogate"):
            accept("x" + half)


@pytest.mark.parametrize("separator", ["\n", "\r", "\t", "\r\n", "\u2028", "\u2029"])
def test_a_line_has_no_second_line(separator: str) -> None:
    with pytest.raises(TextRefused, match="the title must be one line"):
        title(f"a{separator}b")


@pytest.mark.parametrize(
    "kept",
    ["\u202eabc", "a\u200db", "👩\u200d👩\u200d👧", "\ufeffx", "a\u00adb", "a\ufe0f", "\u0301", "\u0600"],
)
def test_bidi_and_zero_width_characters_stay(kept: str) -> None:
    assert normalise_body(kept) == kept
    assert title(kept) == kept


@pytest.mark.parametrize(
    "nothing",
    [
        "",
        " ",
        " \n\t\r\n",
        "\u00a0\u3000",
        "\u200b",
        "\u200d\ufeff",
        "\u2060\u00ad",
        "\u034f",
        "\u115f\u1160",
        "\u3164",
        "\uffa0",
        "\u2800",
        "\ufe0f",
        "\U000e0100",
        "\U000e0041",
        "\u202e\u202c",
        "\u2066\u2069",
        "\u180e",
        "\u061c",
        "\u17b4",
        "\ufff9\ufffb",
        "\U0001d159",
        " \u200b\u2800\ufe00 ",
    ],
)
def test_a_text_of_nothing_visible_is_empty(nothing: str) -> None:
    for accept in (normalise_body, normalise_detail):
        with pytest.raises(TextRefused, match="is empty"):
            accept(nothing)


def test_every_space_and_every_format_character_but_the_drawn_ones_is_invisible() -> None:
    # These enclose or precede digits and are drawn (Unicode, Prepended_Concatenation_Mark and U+070F).
    drawn = {0x070F, 0x06DD, 0x08E2, 0x110BD, 0x110CD, 0x0890, 0x0891, *range(0x0600, 0x0606)}
    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if category in ("Cf", "Zs", "Zl", "Zp") and code not in drawn:
            with pytest.raises(TextRefused, match="is empty"):
                normalise_body(chr(code))


def test_a_body_has_at_most_ten_thousand_code_points_counted_after_nfc() -> None:
    assert len(normalise_body("a" * 10_000)) == 10_000
    assert len(normalise_body("e\u0301" * 10_000)) == 10_000
    assert len(normalise_body("a\r\n" * 5_000)) == 10_000
    for long in ("a" * 10_001, "é" * 10_001, "e\u0301" * 10_001, "a" * 1_000_000, "\u0301" * 1_000_000):
        with pytest.raises(TextRefused, match="longer than 10,000 characters"):
            normalise_body(long)


def test_a_body_may_fill_its_code_points_with_four_byte_characters() -> None:
    assert len(normalise_body("😀" * 10_000).encode()) == text.BODY_BYTES


def test_each_line_has_its_own_limit() -> None:
    assert normalise_line("n" * 100, what="the name", limit=text.NAME_CODE_POINTS) == "n" * 100
    with pytest.raises(TextRefused, match="the name is longer than 100 characters"):
        normalise_line("n" * 101, what="the name", limit=text.NAME_CODE_POINTS)
    with pytest.raises(TextRefused, match="the detail is longer than 2,000"):
        normalise_detail("ä" * 2_001)


def test_a_long_run_of_marks_is_put_in_order_as_unicodedata_would() -> None:
    marks = "a" + "\u0301\u0316\u0f73\u0344\u0315" * 40 + "b\u0308"
    assert normalise_body(marks) == unicodedata.normalize("NFC", marks)


def test_marks_in_the_worst_order_are_refused_or_taken_by_size_alone() -> None:
    assert len(normalise_body("a" + "\u0301\u0316" * 4_999)) == 9_998
    for many in (20_000, 100_000):
        with pytest.raises(TextRefused, match="longer than"):
            normalise_body("a" + "\u0301\u0316" * many)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org",
        "HTTP://example.org:8080/a?b=c#d",
        "https://例え.jp/ü",
        "http://[::1]/",
        "http://a/%20",
    ],
)
def test_http_and_https_addresses_pass(url: str) -> None:
    assert check_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "example.org",
        "/a",
        "//example.org/a",
        "javascript:alert(1)",
        "data:text/html,x",
        "ftp://example.org",
        "http:",
        "http://",
        "http:///a",
        "https:example.org",
        "http://:80/",
        "http://a:port/",
        "http://a:99999/",
        "http://[::1",
        "http://a b/",
        " http://a/",
        "http://a/\n",
        "http://a/\x00",
        "http://a/\u202e",
        "http://a\\@b/",
        'http://a/"onload',
        "http://a/<b>",
        "http://a/\u00a0",
        "http://a/\u200b",
        "http://a/" + "x" * 2_040,
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(TextRefused):
        check_url(url)


def test_a_refusal_says_why_and_does_not_quote_the_text() -> None:
    with pytest.raises(TextRefused) as refused:
        normalise_body("secret\x00")
    assert refused.value.reason == "the body holds a control character"


@pytest.mark.parametrize("raw", ["a@b", "ann+x@mail.example", "jürgen@exämple.de", f"{'a' * 244}@b.example"])
def test_an_address_is_something_at_something(raw: str) -> None:
    assert check_email(raw) == raw


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "@",
        "a@",
        "@b",
        "a",
        "a@b@c",
        "a b@c",
        "a@b\n",
        "a\x00@b",
        "a\u200b@b",
        "\ud800@b",
        f"{'a' * 245}@b.example",
    ],
    ids=ascii,
)
def test_what_no_mail_could_be_sent_to_is_refused(raw: str) -> None:
    with pytest.raises(TextRefused):
        check_email(raw)
