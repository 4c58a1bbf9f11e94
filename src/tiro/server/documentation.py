"""The page /docs: what a server answers to, made from its OpenAPI description; it loads nothing from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

_STYLE = """
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


def page(openapi: dict[str, Any]) -> str:
    """The page for an OpenAPI description."""
    info = openapi["info"]
    sections = [_section(method, path, operation) for path, methods in openapi["paths"].items() for method, operation in methods.items()]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{escape(info["title"])}</title><style>{_STYLE}</style></head>
<body><h1>{escape(info["title"])}</h1><p>{escape(info.get("description", ""))}</p>
{"".join(sections)}<p>The same for programs: <a href="/openapi.json">openapi.json</a></p></body></html>
"""


def _section(method: str, path: str, operation: dict[str, Any]) -> str:
    link = f'<a href="{escape(path)}">{escape(path)}</a>' if method == "get" and "{" not in path else f"<code>{escape(path)}</code>"
    parameters = "".join(
        f"<li><code>{escape(one['name'])}</code> {escape(one.get('description', ''))}</li>" for one in operation.get("parameters", ())
    )
    text = "".join(f"<p>{escape(part)}</p>" for part in operation.get("description", "").split("\n\n") if part)
    return f"<section><h2><b>{method.upper()}</b> {link}</h2>{text}{f'<ul>{parameters}</ul>' if parameters else ''}</section>\n"
