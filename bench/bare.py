"""The baseline: a handler that reads the body and answers, served exactly as the exporter is.

`python -m bench.bare` takes the flags of `css-relay-exporter serve`. gunicorn's settings are those of the
exporter's own server, so that the two can't drift apart; only the application differs.
"""

import sys
from typing import Any

from falcon.asgi import App, Request, Response

from exporter.cli import parse
from exporter.commands import configured
from exporter.server.master import Server
from exporter.server.worker import Served

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

    def start(self) -> tuple[Any, Any]:
        """Return it for either listener."""
        return self._app, self._app

    async def stop(self) -> None:
        """Nothing is to be done."""


class BareServer(Server):
    """The exporter's server with a bare application in it."""

    def load(self) -> Served:
        """Return the bare application, for both listeners."""
        app = App()
        app.add_route(PATH, Bare())
        return Alone(app)


def serve(server: type[Server]) -> None:
    """Serve until a signal comes."""
    server(configured(parse(["serve", *sys.argv[1:]]))).run()


if __name__ == "__main__":
    serve(BareServer)
