"""What the two listeners need from files: certificates and keys, and who may look."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from ssl import SSLContext

from msgspec import Struct

from exporter.access import Source
from exporter.errors import SettingsError
from exporter.listener import Listener
from exporter.reread import Files, Reread, is_open_to_others
from exporter.settings import Settings
from exporter.tls import server_context
from exporter.webconfig import WebConfig, read_web_config
from exporter.webtls import Pem, TlsConfig

log = logging.getLogger(__name__)

#: Files that connections of callbacks leave for operators and the store.
RESERVED_FILES = 100
WEB_FLAG = "--web.config.file"
CERT_FLAG, KEY_FLAG = "--callback.tls-cert-file", "--callback.tls-key-file"


class Listeners(Struct, frozen=True):
    """The listeners, and who may look at the web listener: as its file says now."""

    callbacks: Listener
    web: Listener
    looks: Reread[WebConfig]


def read_listeners(settings: Settings) -> Listeners:
    """Return the listeners as set; files that they name are read, and read again when they change.

    Raises:
        SettingsError: one of those files can't be read or used; the text names flag and field.
    """
    looks = Reread(name=WEB_FLAG, make=_WebFile(settings.web_config_file).read)
    web = Listener(
        "web",
        settings.http_idle_timeout,
        _web_tls(settings, looks),
        lambda: looks.current().headers,
        reserve=RESERVED_FILES // 2,
    )
    proxies = Source(trusted=settings.callback_trusted_proxies).is_trusted
    callbacks = Listener(
        "callbacks",
        settings.http_idle_timeout,
        _callback_tls(settings),
        speaks_for_others=proxies,
        reserve=RESERVED_FILES,
    )
    listeners = Listeners(callbacks, web, looks)
    for note in looks.current().notes:
        log.warning("the web configuration file is not followed to the letter", extra={"in": note})
    for path in dict.fromkeys(_secret_files(settings, looks.current())):
        if is_open_to_others(path):
            log.warning("others can read a file with secrets; let only its owner", extra={"path": path})
    return listeners


def _callback_tls(settings: Settings) -> Callable[[], SSLContext] | None:
    cert, key = settings.callback_tls_cert_file, settings.callback_tls_key_file
    if not cert:
        return None
    config = TlsConfig(cert=Pem(CERT_FLAG, path=cert), key=Pem(KEY_FLAG, path=key))
    return Reread(name=CERT_FLAG, make=lambda files: server_context(config, files)).current


def _web_tls(settings: Settings, looks: Reread[WebConfig]) -> Callable[[], SSLContext] | None:
    if looks.current().tls is None:
        return None

    def make(files: Files) -> SSLContext:
        config = looks.current().tls
        assert config is not None  # noqa: S101 - it is not turned off while this runs
        with _naming(settings.web_config_file):
            return server_context(config, files)

    return Reread(name=f"{WEB_FLAG} TLS", make=make, basis=looks.current).current


class _WebFile:
    """The web configuration file; whether it has TLS stays as it was at the start.

    Args:
        path: where it is; empty for none.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._has_tls: bool | None = None

    def read(self, files: Files) -> WebConfig:
        """Return what it asks for."""
        if not self._path:
            return WebConfig()
        with _naming(self._path):
            config = self._config(files)
            if self._has_tls not in (None, config.tls is not None):
                raise SettingsError("tls_server_config: restart to turn TLS on or off")
        self._has_tls = config.tls is not None
        return config

    def _config(self, files: Files) -> WebConfig:
        try:
            return read_web_config(files.read(self._path), Path(self._path).parent)
        except OSError as exc:
            raise SettingsError(f"can't be read: {exc.strerror}") from None


def _secret_files(settings: Settings, config: WebConfig) -> Iterator[str]:
    """Yield the files that have passwords or keys in them."""
    if config.users or (config.tls and config.tls.key.text):
        yield settings.web_config_file
    if config.tls and config.tls.key.path:
        yield config.tls.key.path
    if settings.callback_tls_key_file:
        yield settings.callback_tls_key_file


@contextmanager
def _naming(path: str) -> Iterator[None]:
    """Have an error name the web configuration file."""
    try:
        yield
    except SettingsError as exc:
        raise SettingsError(f"{WEB_FLAG}={path}: {exc}") from None
