"""Turns what is shown into HTML, and hands out the few files that the pages need: nothing from elsewhere."""

from collections.abc import Mapping
from hashlib import blake2b
from importlib.resources import files
from typing import Any

import falcon
from falcon.asgi import Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined

from exporter.web.phrases import count, number

REFRESH_SECONDS = 15

#: Nothing from elsewhere, nothing inline, no frame; a form leads to this listener alone.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "style-src 'self'",
        "script-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
#: Their address changes with their content.
ASSET_HEADERS = {**HEADERS, "Cache-Control": "max-age=31536000, immutable"}

_TYPES = {"style.css": "text/css", "refresh.js": "text/javascript", "icon.svg": "image/svg+xml"}


class Assets:
    """The stylesheet, the script and the icon: `/-/<name>`."""

    names = tuple(_TYPES)

    def __init__(self) -> None:
        folder = files("exporter.web") / "assets"
        self._content = {name: (folder / name).read_bytes() for name in _TYPES}

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer a file."""
        name = req.path.rpartition("/")[2]
        resp.content_type = f"{_TYPES[name]}; charset=utf-8"
        resp.set_headers(ASSET_HEADERS)
        resp.data = self._content[name]

    def address(self, name: str) -> str:
        """Return the address of a file as it is now."""
        return f"/-/{name}?v={blake2b(self._content[name], digest_size=6).hexdigest()}"


class Renderer:
    """Renders the templates; whatever is put into them is text.

    Args:
        assets: the files that the pages name.
    """

    def __init__(self, assets: Assets) -> None:
        environment = Environment(
            loader=PackageLoader("exporter.web"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.globals |= {
            "asset": assets.address,
            "count": count,
            "number": number,
            "refresh_seconds": REFRESH_SECONDS,
        }
        # Read and compiled now, so that what is wrong with them is told at the start.
        self._templates = {name: environment.get_template(name) for name in environment.list_templates()}

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        """Return a page."""
        return self._templates[template].render(values)


def answer(resp: Response, status: int, page: str) -> None:
    """Answer a page."""
    resp.status = str(status)
    resp.content_type = falcon.MEDIA_HTML
    resp.set_headers(HEADERS)
    resp.text = page
