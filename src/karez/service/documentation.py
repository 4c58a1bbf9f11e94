"""The page /docs: what the API answers to, made from its OpenAPI description; it loads nothing from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import HTMLResponse

_STYLE = """\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1c2430; background: #fff }
code { background: #eef1f5; padding: .1em .3em; border-radius: .2em }
section { border-top: 1px solid #d5dbe3; padding: .5rem 0 }
h2 { font-size: 1rem; margin: .5rem 0 }
b { display: inline-block; min-width: 4rem }
@media (prefers-color-scheme: dark) { body { color: #dfe5ee; background: #161b22 } code { background: #2a313b } a { color: #8ab8ff } }
"""


def add_documentation(app: FastAPI) -> None:
    """Serve /docs; the application is made with `docs_url=None`."""

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page(app.openapi()))

    @app.get("/docs.css", include_in_schema=False)
    async def style() -> Response:
        return Response(_STYLE, media_type="text/css")


def page(openapi: dict[str, Any]) -> str:
    """The page for an OpenAPI description."""
    info, schemas = openapi["info"], openapi.get("components", {}).get("schemas", {})
    calls = [_call(method, path, call, schemas) for path, methods in openapi["paths"].items() for method, call in methods.items()]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title><link rel="stylesheet" href="/docs.css"></head>
<body><h1>{escape(info["title"])}</h1><p>{escape(info.get("description", ""))}</p>
{"".join(calls)}<p>The same for programs: <a href="/openapi.json">openapi.json</a></p></body></html>
"""


def _call(method: str, path: str, call: dict[str, Any], schemas: dict[str, Any]) -> str:
    text = "".join(f"<p>{escape(part)}</p>" for part in call.get("description", "").split("\n\n") if part)
    rows = [(one["name"], one["in"], one.get("required", False), one.get("description", "")) for one in call.get("parameters", ())]
    rows += _body(call, schemas)
    items = "".join(
        f"<li><code>{escape(name)}</code> ({escape(where)}{', required' if is_required else ''}) {escape(words)}</li>"
        for name, where, is_required, words in rows
    )
    answers = ", ".join(f"{escape(status)} {escape(answer['description'])}" for status, answer in call["responses"].items())
    return (
        f"<section><h2><b>{method.upper()}</b> <code>{escape(path)}</code></h2>{text}"
        f"{f'<ul>{items}</ul>' if items else ''}<p><small>{answers}</small></p></section>\n"
    )


def _body(call: dict[str, Any], schemas: dict[str, Any]) -> list[tuple[str, str, bool, str]]:
    content = call.get("requestBody", {}).get("content", {}).get("application/json", {})
    schema = schemas.get(content.get("schema", {}).get("$ref", "").rpartition("/")[2], {})
    required = schema.get("required", ())
    return [(name, "body", name in required, option.get("description", "")) for name, option in schema.get("properties", {}).items()]
