"""The baseline: a handler that reads the body and answers, on the exporter's own server.

`python -m bench.bare` accepts the flags of `css-relay-exporter serve`. It uses the exporter's server class,
so that the settings of gunicorn are the same; only the application differs.
"""

import sys
from typing import Any

from falcon.asgi import App, Request, Response

from exporter.app import listeners
from exporter.cli import parse
from exporter.commands import load_settings
from exporter.server.master import Server
from exporter.watched_files import WatchedFiles

PATH = "/callbacks"
ACCEPTED = b'{"code":0}'


class BareHandler:
    """A handler that answers as the exporter does, without any other work."""

    async def on_post(self, req: Request, resp: Response) -> None:
        """Read the body and answer."""
        await req.stream.read()
        resp.data = ACCEPTED


class SingleApp:
    """An application object for the server: one Falcon app for both listeners, no work at start and stop.

    Args:
        app: the Falcon app.
    """

    def __init__(self, app: Any) -> None:
        self._app = app

    def check_start(self) -> None:
        """Do nothing: there is nothing to check."""

    def reload(self, *, force: bool = False) -> None:
        """Do nothing: there are no files."""

    def start(self) -> tuple[Any, Any]:
        """Return the app for both listeners."""
        return self._app, self._app

    async def stop(self) -> None:
        """Do nothing."""


def serve(app: App[Request, Response], server: type[Server] = Server) -> None:
    """Serve an app on both listeners until a signal arrives."""
    settings = load_settings(parse(["serve", *sys.argv[1:]]))
    server(listeners(settings, WatchedFiles(settings)), SingleApp(app)).run()


if __name__ == "__main__":
    bare: App[Request, Response] = App()
    bare.add_route(PATH, BareHandler())
    serve(bare)
