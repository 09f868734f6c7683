"""`/openapi.json` (OpenAPI 3.1), made from the routes and the models that validate, and `/docs`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from typing import TYPE_CHECKING, Any, Final

import orjson
from aiohttp import web
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from services.api.problems import CODES, Code
from services.api.route_codes import codes_by_status
from services.api.shapes import ProblemShape

if TYPE_CHECKING:
    from services.api.routes import Route

DOCUMENT: Final = web.AppKey("openapi", bytes)
PAGE: Final = web.AppKey("docs", bytes)

_Json = dict[str, Any]
_REF: Final = "#/components/schemas/{model}"
_NAMED: Final = re.compile(r"\{(\w+)\}")
_PATH: Final[Mapping[str, tuple[str, _Json]]] = {
    "site": ("The site.", {"type": "string", "pattern": "^[a-z0-9][a-z0-9._-]{0,62}$"}),
    "thread": (
        "The thread's key: 1 to 512 bytes of UTF-8, percent-encoded (a slash too), or `~` and base64url.",
        {"type": "string", "minLength": 1, "maxLength": 512},
    ),
    "comment": ("The comment's id, a UUIDv7.", {"type": "string", "format": "uuid"}),
}
_INFO: Final = (
    "Problems are RFC 9457's. At an address that is not described here it is 404 `route-not-found`, for a "
    "method that is not 405 `method-not-allowed`, with `Allow`; whatever has a GET has a HEAD. What is no "
    "HTTP the parser refuses, with a 400 in plain text. A 500 is a fault of ours, and `internal`."
)
_WHO: Final = {
    "anyone": "For anyone.",
    "signed in": "For the signed-in.",
    "member": "For the signed-in who are no guests.",
    "moderator": "For moderators.",
    "overseer": "For moderators and operators.",
    "admin": "For the site's admins.",
    "operator": "For operators, by a server key of any site.",
    "network": "For the networks that the settings name, and for operators.",
}
_HEADERS: Final[_Json] = {
    name: {"description": text, "required": always, "schema": schema}
    for name, always, schema, text in (
        ("X-Request-ID", True, {"type": "string"}, "The request's id: the client's own, or a new one."),
        (
            "Threadlog-Version",
            True,
            {"type": "integer"},
            "The version of the thread, or of the site's stream.",
        ),
        ("ETag", True, {"type": "string"}, "For If-None-Match."),
        ("Threadlog-Stale", False, {"type": "string", "enum": ["true"]}, "Newer events may be missing."),
        ("Location", True, {"type": "string"}, "The comment."),
        ("WWW-Authenticate", True, {"type": "string"}, "How to sign in (RFC 6750)."),
        ("Retry-After", True, {"type": "integer", "minimum": 1}, "Seconds to wait."),
        ("RateLimit", False, {"type": "string"}, "What each limit has left, where one applies."),
        ("RateLimit-Policy", False, {"type": "string"}, "The limits that apply."),
    )
}
_PARAMETERS: Final[_Json] = {
    name: {"name": name, "in": "header", "required": required, "description": text, "schema": schema}
    for name, required, schema, text in (
        (
            "Idempotency-Key",
            False,
            {"type": "string", "pattern": "^[!-~]{1,255}$"},
            "A repeat with the same key writes nothing, and is answered as the first. Kept 30 days.",
        ),
        (
            "If-Match",
            True,
            {"type": "string", "pattern": '^"[1-9][0-9]{0,8}"$'},
            'The revision that the editor saw, as in `"1"`.',
        ),
        ("If-None-Match", False, {"type": "string"}, "An ETag: 304 where it still holds."),
        (
            "Last-Event-ID",
            False,
            {"type": "string", "pattern": "^[A-Za-z0-9_-]+$"},
            "The `id` of the last event seen: the stream goes on after it. Of a thread's a whole number.",
        ),
        (
            "Threadlog-Act-As",
            False,
            {"type": "string", "minLength": 1, "maxLength": 255},
            "With a server key only: the `sub` to act as, with the key's own roles.",
        ),
        ("X-Request-ID", False, {"type": "string"}, "1 to 128 of `[A-Za-z0-9._:/-]`, else replaced."),
    )
}
_WITH_A_BODY: Final = (200, 410)
_MEANING: Final = {410: "The link does not work any more.", 503: "Not now"}
_CSP: Final = (
    "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


async def document(request: web.Request) -> web.Response:
    """The description of this API."""
    return web.Response(
        body=request.app[DOCUMENT],
        content_type="application/json",
        headers={"Cache-Control": "public, max-age=60"},
    )


async def page(request: web.Request) -> web.Response:
    """The description as a page, which loads nothing from elsewhere."""
    return web.Response(
        body=request.app[PAGE],
        content_type="text/html",
        charset="utf-8",
        headers={"Cache-Control": "public, max-age=60", "Content-Security-Policy": _CSP},
    )


def docs_page() -> bytes:
    """The page at `/docs`."""
    return (files("services.api") / "static" / "docs.html").read_bytes()


def describe(routes: Iterable[Route]) -> bytes:
    """The OpenAPI document of `routes`: every status that each answers with, and its codes."""
    routes = tuple(routes)
    taken = {route.body for route in routes if route.body is not None}
    given = {model for route in routes for model in route.answers.values() if model is not None}
    wanted: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in taken]
    wanted += [(model, "serialization") for model in (given | {ProblemShape}) - taken]
    names, schemas = models_json_schema(sorted(wanted, key=lambda pair: pair[0].__name__), ref_template=_REF)
    refs: dict[type[BaseModel], _Json] = {model: names[model, mode] for model, mode in wanted}
    paths: dict[str, _Json] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, refs)
    return orjson.dumps(
        {
            "openapi": "3.1.0",
            "info": {
                "title": "threadlog",
                "version": _version(),
                "summary": "An event-sourced comment backend",
                "description": _INFO,
            },
            "paths": paths,
            "components": {
                "schemas": schemas.get("$defs", {}),
                "securitySchemes": {
                    "bearer": {
                        "type": "http",
                        "scheme": "bearer",
                        "bearerFormat": "JWT",
                        "description": "A JWT that the site signs, or a guest's token.",
                    },
                    "serverKey": {
                        "type": "http",
                        "scheme": "bearer",
                        "bearerFormat": "tl_…",
                        "description": "A server key of the site, with the roles that it was made with.",
                    },
                },
                "parameters": _PARAMETERS,
                "headers": _HEADERS,
                "responses": _problems(routes, refs[ProblemShape]),
            },
        }
    )


def _version() -> str:
    try:
        return version("threadlog")
    except PackageNotFoundError:
        return "0"


def _operation(route: Route, refs: Mapping[type[BaseModel], _Json]) -> _Json:
    module = route.handler.__module__.rpartition(".")[2]
    operation: _Json = {
        "summary": route.summary,
        "description": _WHO[route.who],
        "operationId": f"{module}.{getattr(route.handler, '__name__', 'handler')}",
        "parameters": _parameters(route),
        "responses": _responses(route, refs),
    }
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": refs[route.body]}},
        }
    operation["security"] = _security(route)
    return operation


def _security(route: Route) -> list[_Json]:
    """Any one of them will do."""
    if route.who == "network":
        return [{}, {"serverKey": []}]
    if route.who == "operator":
        return [{"serverKey": []}]
    if not route.path.startswith("/v1/"):
        return []
    signed_in: list[_Json] = [{"bearer": []}, {"serverKey": []}]
    return [{}, *signed_in] if route.who == "anyone" else signed_in


def _parameters(route: Route) -> list[_Json]:
    found: list[_Json] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH[name][0],
            "schema": _PATH[name][1],
        }
        for name in _NAMED.findall(route.path)
    ]
    properties: Mapping[str, _Json] = route.query.model_json_schema().get("properties", {})
    for name, schema in properties.items():
        shown = {key: value for key, value in schema.items() if key not in ("title", "description")}
        described = {"description": schema["description"]} if "description" in schema else {}
        found.append({"name": name, "in": "query", "required": False, **described, "schema": _given(shown)})
    for taken, name in (
        (route.idempotent, "Idempotency-Key"),
        (route.revision, "If-Match"),
        (route.conditional or route.tagged, "If-None-Match"),
        (route.stream, "Last-Event-ID"),
        (route.path.startswith("/v1/"), "Threadlog-Act-As"),
        (True, "X-Request-ID"),
    ):
        if taken:
            found.append({"$ref": f"#/components/parameters/{name}"})
    return found


def _given(schema: _Json) -> _Json:
    """The schema of a parameter that is given: null, which a model takes for absent, no query can say."""
    kinds: list[_Json] = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {key: value for key, value in schema.items() if key not in ("anyOf", "default")} | kinds[0]


def _responses(route: Route, refs: Mapping[type[BaseModel], _Json]) -> _Json:
    responses: _Json = {}
    for status, model in route.answers.items():
        answer: _Json = {
            "description": _MEANING.get(status, "Success"),
            "headers": _headers(*_told(route, status)),
        }
        if model is not None:
            answer["content"] = {"application/json": {"schema": refs[model]}}
            if route.stream:
                answer["content"]["text/event-stream"] = {"schema": {"type": "string"}}
        elif status in _WITH_A_BODY:
            answer["content"] = {route.media: {}}
        responses[str(status)] = answer
    if route.conditional or route.tagged:
        responses["304"] = {"description": "The reader has it.", "headers": _headers(*_told(route, 304))}
    for status, codes in codes_by_status(route).items():
        responses.setdefault(str(status), {"$ref": f"#/components/responses/{_name(status, codes)}"})
    return responses


def _told(route: Route, status: int) -> Iterable[str]:
    """The headers of a success."""
    if route.conditional or route.idempotent or route.versioned:
        yield "Threadlog-Version"
    if route.conditional or route.tagged:
        yield "ETag"
    if route.conditional:
        yield "Threadlog-Stale"
    if status == 201 and route.idempotent:
        yield "Location"
    if status == 503:
        yield "Retry-After"
    if route.path.startswith("/v1/") and route.method != "GET" and not route.reads:
        yield from ("RateLimit", "RateLimit-Policy")


def _headers(*names: str) -> _Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-ID", *names)}


def _name(status: int, codes: Iterable[str]) -> str:
    return f"{status}.{'.'.join(codes)}"


def _problems(routes: Iterable[Route], shape: _Json) -> _Json:
    """Every set of problems that some route answers with."""
    found = {one for route in routes for one in codes_by_status(route).items()}
    return {_name(status, codes): _problem(status, codes, shape) for status, codes in sorted(found)}


def _problem(status: int, codes: tuple[Code, ...], shape: _Json) -> _Json:
    told = {401: ("WWW-Authenticate",), 429: ("Retry-After", "RateLimit", "RateLimit-Policy")}
    narrowed = {
        "properties": {
            "type": {"enum": [f"urn:threadlog:problem:{code}" for code in codes]},
            "status": {"const": status},
        }
    }
    return {
        "description": "; ".join(f"`{code}`: {CODES[code][1].lower()}" for code in codes),
        "headers": _headers(*told.get(status, ("Retry-After",) if status == 503 else ())),
        "content": {"application/problem+json": {"schema": {"allOf": [shape, narrowed]}}},
    }
