"""Whom a text names."""

from __future__ import annotations

import pytest

from services.core.mentions import MENTIONS, Named, folded, named_in, people

BEARERS = {
    folded(name): id_ for name, id_ in (("Ann", "u-1"), ("Ann Lee", "u-2"), ("José", "u-3"), ("田中", "u-4"))
}
BEARERS |= {folded(name): id_ for name, id_ in (("O'Neil Jr.", "u-5"), ("Straße", "u-6"), ("x_y", "u-7"))}


def named(body: str) -> list[str]:
    return list(people(named_in(body), BEARERS.get))


@pytest.mark.parametrize(
    ("body", "who"),
    [
        ("@Ann", ["u-1"]),
        ("thanks, @ann!", ["u-1"]),
        ("@Ann's idea", ["u-1"]),
        ("(@ANN)", ["u-1"]),
        ("*@ann* said", ["u-1"]),
        ("- @ann", ["u-1"]),
        ("so:\n@ann\n", ["u-1"]),
        ("[see @ann](https://example.org)", ["u-1"]),
    ],
)
def test_an_at_names_who_bears_the_name(body: str, who: list[str]) -> None:
    assert named(body) == who


@pytest.mark.parametrize(
    ("body", "who"),
    [
        ("@Ann Lee and others", ["u-2"]),
        ("@Ann Leeds", ["u-1"]),
        ("@Ann  lee", ["u-2"]),
        ("@Ann\nLee", ["u-1"]),
        ("@O'Neil Jr. is right", ["u-5"]),
        ("@x_y", ["u-7"]),
    ],
)
def test_the_longest_name_that_somebody_bears_is_meant(body: str, who: list[str]) -> None:
    assert named(body) == who


@pytest.mark.parametrize("name", ["jose\u0301", "JOSÉ", "STRASSE", "strasse"])
def test_names_are_compared_without_case_in_nfc(name: str) -> None:
    assert named(f"@{name}") in (["u-3"], ["u-6"])


@pytest.mark.parametrize("body", ["@田中さん、こんにちは", "こんにちは@田中"])
def test_scripts_without_spaces_end_a_name_anywhere(body: str) -> None:
    assert named(body) == ["u-4"]


@pytest.mark.parametrize(
    "body",
    [
        "mail me@ann.example",
        "x.y@ann",
        "@ann@example.org has another network",
        "https://example.org/@ann",
        "`@ann`",
        "```\n@ann\n```",
        "    @ann in indented code",
        "> @ann said",
        "@",
        "@ ann",
        "@annie",
        "no at at all",
    ],
)
def test_addresses_code_quotations_and_parts_of_words_name_nobody(body: str) -> None:
    assert named(body) == []


def test_an_id_names_somebody_who_is_not_in_the_thread() -> None:
    assert named("@[u-99] and @[a b], not @[x\ny] or @[]") == ["u-99", "a b"]


def test_each_is_named_once_in_the_order_of_the_text() -> None:
    assert named("@[u-2] @ann @Ann Lee @ann") == ["u-2", "u-1"]


def test_a_comment_names_a_bounded_number_of_people() -> None:
    body = " ".join(f"@[p-{number}]" for number in range(200))
    assert named(body) == [f"p-{number}" for number in range(MENTIONS)]


def test_what_is_looked_up_is_bounded_however_long_the_text() -> None:
    body = "@a b c d e f g h i j k l m n o p q r s t u v w x y z " * 180
    found = named_in(body)
    assert len(found) == 1
    assert len(found[0].names) <= 16
    assert sum(len(one.names) for one in named_in("".join(f"@{n} b c d " for n in range(900)))) <= 40 * 16


def test_a_name_is_tried_in_all_its_lengths_the_longest_first() -> None:
    assert named_in("@Ann Lee. X") == (Named(names=("ann lee. x", "ann lee.", "ann lee", "ann")),)
