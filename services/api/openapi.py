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

from services.api.problems import CODES
from services.api.shapes import ProblemShape

if TYPE_CHECKING:
    from services.api.routes import Route

DOCUMENT: Final = web.AppKey("openapi", bytes)
PAGE: Final = web.AppKey("docs", bytes)

_Json = dict[str, Any]
_REF: Final = "#/components/schemas/{model}"
_NAMED: Final = re.compile(r"\{(\w+)\}")
_PATH: Final = {
    "site": "The site.",
    "thread": "The thread's key: 1 to 512 bytes of UTF-8, percent-encoded, or `~` and base64url.",
    "comment": "The comment's id, a UUIDv7.",
}
_WHO: Final = {
    "anyone": "For anyone.",
    "signed in": "For the signed-in.",
    "moderator": "For moderators.",
    "admin": "For the site's admins.",
    "network": "For the networks that the operator names.",
}
_CSP: Final = "default-src 'none'; connect-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


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
    """The OpenAPI document of `routes`."""
    routes = tuple(routes)
    taken = {route.body for route in routes if route.body is not None}
    given = {model for route in routes for model in route.answers.values() if model is not None}
    wanted: list[tuple[type[BaseModel], Any]] = [(model, "validation") for model in taken]
    wanted += [(model, "serialization") for model in (given | {ProblemShape}) - taken]
    names, schemas = models_json_schema(sorted(wanted, key=lambda pair: pair[0].__name__), ref_template=_REF)
    refs: dict[type[BaseModel], _Json] = {model: schema for (model, _), schema in names.items()}  # type: ignore[misc]  # pydantic types the key as any kind of schema
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
            },
            "paths": paths,
            "components": {
                "schemas": schemas.get("$defs", {}),
                "securitySchemes": {
                    "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                },
                "headers": {
                    "Threadlog-Version": {
                        "description": "The version of the thread, or of the site's settings.",
                        "schema": {"type": "integer"},
                    },
                    "ETag": {"description": "For If-None-Match.", "schema": {"type": "string"}},
                },
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
    if route.path.startswith("/v1/"):
        operation["security"] = [{"bearer": []}] if route.who != "anyone" else [{}, {"bearer": []}]
    return operation


def _parameters(route: Route) -> list[_Json]:
    found = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH[name],
            "schema": {"type": "string"},
        }
        for name in _NAMED.findall(route.path)
    ]
    properties: Mapping[str, _Json] = route.query.model_json_schema().get("properties", {})
    for name, schema in properties.items():
        shown = {key: value for key, value in schema.items() if key not in ("title", "description")}
        described = {"description": schema["description"]} if "description" in schema else {}
        found.append({"name": name, "in": "query", "required": False, **described, "schema": shown})
    for wanted, name, required, text in (
        (route.idempotent, "Idempotency-Key", False, "1 to 255 visible ASCII characters, kept 30 days."),
        (route.revision, "If-Match", True, 'The revision that the editor saw, as in `"1"`.'),
        (route.conditional, "If-None-Match", False, "An ETag: 304 where it still holds."),
    ):
        if wanted:
            schema = {"type": "string"}
            found.append(
                {"name": name, "in": "header", "required": required, "description": text, "schema": schema}
            )
    return found


def _responses(route: Route, refs: Mapping[type[BaseModel], _Json]) -> _Json:
    versioned = {"Threadlog-Version": {"$ref": "#/components/headers/Threadlog-Version"}}
    tagged = {"ETag": {"$ref": "#/components/headers/ETag"}}
    responses: _Json = {}
    for status, model in route.answers.items():
        answer: _Json = {"description": "Success" if status < 400 else "Not now"}
        if model is not None:
            answer["content"] = {"application/json": {"schema": refs[model]}}
        if route.conditional or route.idempotent:
            answer["headers"] = versioned | (tagged if route.conditional else {})
        responses[str(status)] = answer
    if route.conditional:
        responses["304"] = {"description": "The reader has it."}
    responses["default"] = {
        "description": f"A problem (RFC 9457) of type urn:threadlog:problem: and one of {', '.join(CODES)}.",
        "content": {"application/problem+json": {"schema": refs[ProblemShape]}},
    }
    return responses
