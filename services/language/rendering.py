"""Mails and pages from templates: ours, or what a site has put in their place.

A site's own template is run in Jinja's sandbox, and is a small part of its language (`_ALLOWED`): no calls,
no assignments, no arithmetic, loops over `items` alone. So it cannot run for long, nor make much of little:
what it writes is bounded by its size and that of what it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Final

from jinja2 import (
    Environment,
    PackageLoader,
    StrictUndefined,
    TemplateError,
    TemplateSyntaxError,
    nodes,
    select_autoescape,
)
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from services.errors import TemplateRefused
from services.language.phrases import phrases

KINDS: Final = ("notification", "digest", "confirmation", "endpoint-off")
"""The mails, by the kind of delivery."""
PARTS: Final = ("subject", "txt", "html")
OWN: Final = tuple(f"{kind}.{part}" for kind in KINDS for part in PARTS)
"""The templates in whose place a site may put its own."""

SOURCE: Final = 20_000
"""Characters of a site's own template, at most."""
OUTPUT: Final = 1_000_000
"""Characters that it may write."""
_NESTED: Final = 2
_FILTERS: Final = frozenset({"count", "d", "default", "e", "escape", "first", "last", "length"}) | {
    *("capitalize", "lower", "title", "trim", "truncate", "upper", "urlencode"),
}
_ALLOWED: Final = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Keyword),
    *(nodes.Getattr, nodes.Getitem, nodes.If, nodes.For, nodes.Filter, nodes.Test, nodes.CondExpr),
    *(nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not),
)


def render(name: str, language: str, given: Mapping[str, Any]) -> str:
    """One of our templates, with these values, in a language."""
    return _ours(language).get_template(name).render(given, language=language)


def render_own(name: str, source: str, given: Mapping[str, Any]) -> str:
    """A site's own template. Raises TemplateRefused."""
    sandbox = _sandbox(name.endswith(".html"))
    try:
        tree = sandbox.parse(source)
        for wrong in _refused(tree):
            raise TemplateRefused(f"{name}, line {wrong.lineno}: {type(wrong).__name__} is not taken here")
        template = sandbox.from_string(tree)
        pieces: list[str] = []
        room = OUTPUT
        for piece in template.generate(given):
            room -= len(piece)
            if room < 0:
                raise TemplateRefused(f"{name}: it writes more than {OUTPUT:,} characters")
            pieces.append(piece)
    except TemplateError as error:
        line = f", line {error.lineno}" if isinstance(error, TemplateSyntaxError) else ""
        raise TemplateRefused(f"{name}{line}: {error.message or type(error).__name__}") from error
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise TemplateRefused(f"{name}: {type(error).__name__}: {error}") from error
    return "".join(pieces)


def check_own(name: str, source: str) -> str:
    """What a site's own template makes of the sample. Raises TemplateRefused where it cannot take the place
    of `name`."""
    if name not in OWN:
        raise TemplateRefused(f"there is no template {name}; there are {', '.join(OWN)}")
    if len(source) > SOURCE:
        raise TemplateRefused(f"{name}: a template has at most {SOURCE:,} characters")
    shown = render_own(name, source, sample(name.partition(".")[0]))
    if not shown.strip():
        raise TemplateRefused(f"{name}: it shows nothing")
    return shown


def sample(kind: str) -> dict[str, Any]:
    """Values such as a mail of this kind is made of."""
    item = {
        "sentence": "Ann & 4 others replied to your comment",
        "actor": "Ann",
        "reason": "reply",
        "title": "Talk <therapy>",
        "url": "https://blog.example/talk#comment-0199b2c3-0000-7000-8000-000000000000",
        "body": "I *agree*.",
        "html": Markup("<p>I <em>agree</em>.</p>"),
        "created_at": "2026-11-23T05:00:00.123456Z",
    }
    given: dict[str, Any] = {
        "site": "blog",
        "language": "en",
        "unsubscribe_url": "https://comments.example/v1/sites/blog/unsubscribe?token=t",
    }
    match kind:
        case "notification":
            return given | {"item": item}
        case "digest":
            return given | {"items": [item, item], "count": 5, "more": 3}
        case "confirmation":
            return given | {"confirm_url": "https://comments.example/v1/sites/blog/confirm?token=t"}
        case _:
            return given | {"endpoint_url": "https://blog.example/hook", "reason": "503 for five days"}


def _refused(tree: nodes.Template) -> Iterator[nodes.Node]:
    """What a site's own template may not hold."""
    for node in _below(tree):
        match node:
            case nodes.Filter():
                fits = node.name in _FILTERS
            case nodes.For():
                fits = not node.recursive and isinstance(node.iter, nodes.Name) and node.iter.name == "items"
            case _:
                fits = isinstance(node, _ALLOWED)
        if not fits:
            yield node
    for loop in tree.find_all(nodes.For):
        if sum(1 for _ in loop.find_all(nodes.For)) >= _NESTED:
            yield loop


def _below(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _below(child)


@cache
def _ours(language: str) -> Environment:
    made = Environment(
        loader=PackageLoader("services.language", "templates"),
        autoescape=select_autoescape(enabled_extensions=("html",), default=False),
        undefined=StrictUndefined,
        extensions=["jinja2.ext.i18n"],
        trim_blocks=True,
    )
    made.install_gettext_translations(phrases(language), newstyle=True)  # type: ignore[attr-defined]
    return made


@cache
def _sandbox(html: bool) -> ImmutableSandboxedEnvironment:  # noqa: FBT001
    made = ImmutableSandboxedEnvironment(autoescape=html, undefined=StrictUndefined)
    made.globals.clear()
    return made
