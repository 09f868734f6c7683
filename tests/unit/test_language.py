"""What people are told: every phrase in every language, and templates of one's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from services.core.site import Language
from services.errors import TemplateRefused
from services.language.phrases import LANGUAGES, phrases
from services.language.rendering import KINDS, OWN, PARTS, check_own, render, render_own, sample

FOLDER = Path(str(files("services.language")))
_NAMED = re.compile(r"%\((\w+)\)([sd])")

Phrase = str | tuple[str, ...]


def catalog(language: str) -> Catalog:
    with (FOLDER / f"{language}.po").open("rb") as file:
        return read_po(file, abort_invalid=True)


def in_use() -> set[Phrase]:
    """The phrases of the code and of the templates."""
    return {
        one[2]
        for one in extract_from_dir(FOLDER, [("**.py", "python"), ("templates/**", "jinja2")])
        if one[2]
    }


def of(phrase: str | Sequence[str]) -> list[str]:
    return [phrase] if isinstance(phrase, str) else list(phrase)


def test_a_site_may_speak_every_language_that_there_is_a_file_for_and_no_other() -> None:
    assert set(LANGUAGES) == set(get_args(Language)) == {file.stem for file in FOLDER.glob("*.po")}


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_language_has_every_phrase_that_is_in_use_and_no_other(language: str) -> None:
    assert {one.id for one in catalog(language) if one.id} == in_use()


@pytest.mark.parametrize("language", [one for one in LANGUAGES if one != "en"])
def test_every_phrase_is_translated_and_names_the_same_values(language: str) -> None:
    for one in catalog(language):
        if one.id:
            for meant, said in zip(of(one.id), of(one.string or ""), strict=True):
                assert said, one.id
                assert sorted(_NAMED.findall(said)) == sorted(_NAMED.findall(meant)), one.id


@pytest.mark.parametrize(
    ("language", "reason", "name", "others", "sentence"),
    [
        ("en", "reply", "Ann", 0, "Ann replied to your comment"),
        ("en", "reply", "Ann", 1, "Ann and 1 other replied to your comment"),
        ("en", "reply", "Ann", 4, "Ann and 4 others replied to your comment"),
        ("en", "mention", None, 0, "Somebody mentioned you"),
        ("de", "reply", "Ann", 0, "Ann hat auf deinen Kommentar geantwortet"),
        ("de", "reply", "Ann", 1, "Ann und 1 weitere Person haben auf deinen Kommentar geantwortet"),
        ("de", "follow", "Ann", 4, "Ann und 4 weitere haben etwas geschrieben, wo du mitliest"),
        ("xx", "reply", "100 % Ann %(name)s", 0, "100 % Ann %(name)s replied to your comment"),
    ],
)
def test_a_sentence_says_why_somebody_is_told(
    language: str, reason: str, name: str | None, others: int, sentence: str
) -> None:
    assert phrases(language).told(reason, name, others) == sentence


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("reason", ["reply", "mention", "follow", "ancestor", "moderation", "newer"])
def test_there_is_a_sentence_for_every_reason(language: str, reason: str) -> None:
    for others in (0, 1, 2):
        assert phrases(language).told(reason, "Ann", others)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", OWN)
def test_every_template_shows_the_sample_in_every_language(language: str, name: str) -> None:
    kind, _, of_part = name.partition(".")
    shown = render(name, language, sample(kind))
    if of_part == "html":
        assert f'<html lang="{language}">' in shown
        assert "<script" not in shown
        assert "Talk <therapy>" not in shown


def test_the_text_of_a_mail_has_each_thing_on_a_line_of_its_own() -> None:
    lines = render("notification.txt", "en", sample("notification")).splitlines()
    assert lines[:5] == [
        "Ann & 4 others replied to your comment",
        "Talk <therapy>",
        "https://blog.example/talk#comment-0199b2c3-0000-7000-8000-000000000000",
        "",
        "I *agree*.",
    ]
    assert lines[6] == "-- "


def test_a_site_s_own_html_is_escaped_and_its_text_is_not() -> None:
    source = "{% for one in items %}{{ one.title }}{{ one.html }}{% if one.url %}.{% endif %}{% endfor %}"
    assert check_own("digest.html", source) == "Talk &lt;therapy&gt;<p>I <em>agree</em>.</p>." * 2
    assert check_own("digest.txt", source).startswith("Talk <therapy><p>")


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("{{ item.__class__ }}", "unsafe"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ item.title.upper() }}", "Call"),
        ("{{ range(9) }}", "Call"),
        ("{% set x = item.body %}{{ x }}", "Assign"),
        ("{% set x %}{{ item.body }}{% endset %}x", "AssignBlock"),
        ("{% macro m() %}{% endmacro %}x", "Macro"),
        ("{% include 'page.html' %}", "Include"),
        ("{% extends 'page.html' %}", "Extends"),
        ("{% with a = 1 %}x{% endwith %}", "With"),
        ("{{ 'a' * 999999999 }}", "Mul"),
        ("{{ 9 ** 9 ** 9 }}", "Pow"),
        ("{{ '%999999999d' % 1 }}", "Mod"),
        ("{{ item.body ~ item.body }}", "Concat"),
        ("{{ item.body|center(999999999) }}", "Filter"),
        ("{{ item.body|join(item.body) }}", "Filter"),
        ("{% for a in item.body %}x{% endfor %}", "For"),
        ("{% for a in items recursive %}x{% endfor %}", "For"),
        ("{% for a in items %}" * 3 + "x" + "{% endfor %}" * 3, "For"),
        ("{{ item.nothing }}", "nothing"),
        ("{{ nothing }}", "nothing"),
        ("line\n{% if %}", "line 2"),
        ("{{ item.title|truncate('x') }}", "TypeError"),
        (" \n", "shows nothing"),
        ("x" * 20_001, "at most 20,000"),
    ],
)
def test_a_template_that_does_not_work_or_might_run_away_is_refused(source: str, why: str) -> None:
    with pytest.raises(TemplateRefused, match=re.escape(why)):
        check_own("notification.txt", source)


def test_what_a_template_writes_is_bounded() -> None:
    many = {"items": [{"body": "x" * 40_000}] * 100}
    with pytest.raises(TemplateRefused, match="more than 1,000,000"):
        render_own("digest.txt", "{% for one in items %}{{ one.body }}{% endfor %}", many)


def test_a_template_of_no_mail_is_refused() -> None:
    with pytest.raises(TemplateRefused, match=re.escape("there is no template page.html")):
        check_own("page.html", "x")
    assert len(OWN) == len(KINDS) * len(PARTS)
