"""Turns what is shown into HTML, and hands out the few files that the pages need: nothing from elsewhere."""

from hashlib import blake2b
from importlib.resources import files
from typing import Any

from falcon.asgi import Request, Response
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from exporter.web.humanize import ago, code_hint, number, plural, position, span, utc, visible
from exporter.web.task_page import MAX_HISTORY, event_subject, file_name

REFRESH_SECONDS = 15
ASSET_TYPES = {"style.css": "text/css", "refresh.js": "text/javascript", "icon.svg": "image/svg+xml"}
FILTERS = (ago, code_hint, event_subject, file_name, number, plural, position, span, utc)

#: Nothing from elsewhere, nothing inline, no frame; a form leads to this listener alone.
POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Assets:
    """The stylesheet, the script and the icon: `/-/<name>`."""

    def __init__(self) -> None:
        folder = files("exporter.web") / "assets"
        self._content = {name: (folder / name).read_bytes() for name in ASSET_TYPES}

    async def on_get(self, req: Request, resp: Response) -> None:
        """Answer a file."""
        name = req.path.rpartition("/")[2]
        resp.content_type = f"{ASSET_TYPES[name]}; charset=utf-8"
        # It may be kept, since its address changes with its content.
        resp.set_headers({**HEADERS, "Cache-Control": "max-age=31536000, immutable"})
        resp.data = self._content[name]

    def address(self, name: str) -> str:
        """Return the address of a file as it is now."""
        return f"/-/{name}?v={blake2b(self._content[name], digest_size=6).hexdigest()}"


def load_templates(**variables: Any) -> dict[str, Template]:
    """Return the templates by name, with `variables` for all of them; whatever they print is visible text."""
    environment = Environment(
        loader=PackageLoader("exporter.web"),
        autoescape=True,
        # HTML is Markup, made of texts that have come by here.
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {function.__name__: function for function in FILTERS}
    environment.globals |= variables | {"refresh_seconds": REFRESH_SECONDS, "max_history": MAX_HISTORY}
    # Read and compiled now, so that what is wrong with them is told at the start.
    return {name: environment.get_template(name) for name in environment.list_templates()}
