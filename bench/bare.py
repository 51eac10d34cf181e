"""The baseline: a handler that reads the body and answers, served exactly as the exporter is.

`python -m bench.bare` takes the flags of `css-relay-exporter serve`. gunicorn's settings are those of the
exporter's own server, so that the two can't drift apart; only the application differs.
"""

import sys
from typing import Any

from falcon.asgi import App, Request, Response

from exporter.app import listeners
from exporter.cli import parse
from exporter.commands import configured
from exporter.server.master import Server
from exporter.watched_files import WatchedFiles

PATH = "/callbacks"
TAKEN = b'{"code":0}'


class Bare:
    """Answers as the exporter does, and does nothing else."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Read the body and answer."""
        await req.stream.read()
        resp.data = TAKEN


class Alone:
    """One application for both listeners, with nothing to begin and to end.

    Args:
        app: that application.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    def preflight(self) -> None:
        """Nothing can fail."""

    def reload(self, *, force: bool = False) -> None:
        """No file is read."""

    def start(self) -> tuple[Any, Any]:
        """Return it for either listener."""
        return self._app, self._app

    async def stop(self) -> None:
        """Nothing is to be done."""


def serve(app: App[Request, Response], server: type[Server] = Server) -> None:
    """Serve an application on both listeners until a signal comes."""
    settings = configured(parse(["serve", *sys.argv[1:]]))
    server(listeners(settings, WatchedFiles(settings)), Alone(app)).run()


if __name__ == "__main__":
    bare: App[Request, Response] = App()
    bare.add_route(PATH, Bare())
    serve(bare)
