"""The files that are reloaded when they change: secrets, certificates, and the web configuration.

Changes of flags and schema files, and turning TLS on or off, need a restart.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import Any, TypeVar

from msgspec import Struct

from exporter.callbacks.access import is_token
from exporter.config.reload import FileReader, ReloadingFile, secret_lines
from exporter.config.settings import Settings
from exporter.errors import SettingsError
from exporter.server.tls import PemFile, TlsConfig, server_context
from exporter.web.web_config import WebConfig, read_web_config

T = TypeVar("T")

WEB_FLAG = "--web.config.file"
CERT_FLAG, KEY_FLAG = "--callback.tls-cert-file", "--callback.tls-key-file"


class WebAccess(Struct, frozen=True):
    """The web configuration and the TLS context made from it: one value, so that both change together."""

    config: WebConfig = WebConfig()
    tls: SSLContext | None = None


class WatchedFiles:
    """The files that the settings name.

    Each attribute is a function that returns the newest value of a file, or None if there is no file.

    The master reads the files before it starts a worker, and the worker inherits the values. So a worker that
    replaces another one starts even if a file has become unusable in the meantime.
    """

    def __init__(self, settings: Settings) -> None:
        self._watched: list[ReloadingFile[Any]] = []
        self.tokens = self._secrets(settings.callback_token_file, "--callback.token-file", is_token)
        self.sign_keys = self._secrets(settings.callback_sign_key_file, "--callback.sign-key-file")
        self.store_passwords = self._secrets(settings.store_password_file, "--store.password-file")
        self.callback_tls: Callable[[], SSLContext] | None = None
        if settings.callback_tls_cert_file:
            cert, key = settings.callback_tls_cert_file, settings.callback_tls_key_file
            config = TlsConfig(cert=PemFile(CERT_FLAG, cert), key=PemFile(KEY_FLAG, key))
            self.callback_tls = self._watch(CERT_FLAG, partial(server_context, config))
        # Without a file: returns a new WebAccess with its defaults.
        self._web: Callable[[], WebAccess] = WebAccess
        if settings.web_config_file:
            self._web = self._watch(WEB_FLAG, partial(self._read_web, settings.web_config_file))
        self.web_tls = self._current_web_tls if self._web().tls else None

    def web_config(self) -> WebConfig:
        """Return the newest web configuration; without a file, one that allows anybody."""
        return self._web().config

    def reload(self, *, force: bool = False) -> None:
        """Reload the files that have changed, or with `force` all files, see `ReloadingFile`."""
        for file in self._watched:
            file.reload(force=force)

    def _watch(self, name: str, make: Callable[[FileReader], T]) -> Callable[[], T]:
        file = ReloadingFile(name, make)
        self._watched.append(file)
        # The method, not the value: so each call returns the newest value.
        return file.current

    def _secrets(
        self, path: str, flag: str, is_valid: Callable[[str], bool] = bool
    ) -> Callable[[], tuple[str, ...]] | None:
        return self._watch(flag, partial(secret_lines, path, flag, is_valid)) if path else None

    def _read_web(self, path: str, files: FileReader) -> WebAccess:
        # Only later reads are compared: the first one decides what is allowed.
        is_first = self._web is WebAccess
        try:
            config = read_web_config(files.read(path), Path(path).parent)
            if not is_first:
                _refuse_weaker(self._web().config, config)
            access = WebAccess(config, server_context(config.tls, files) if config.tls else None)
        except OSError as exc:
            raise SettingsError(f"{WEB_FLAG}={path}: can't be read: {exc.strerror}") from None
        except SettingsError as exc:
            raise SettingsError(f"{WEB_FLAG}={path}: {exc}") from None
        # Only a warning: Kubernetes mounts secrets world-readable by default. bcrypt hashes resist guessing.
        if config.users:
            files.warn_if_world_readable(path)
        return access

    def _current_web_tls(self) -> SSLContext:
        tls = self._web().tls
        assert tls is not None  # noqa: S101 - `_refuse_weaker` keeps it
        return tls


def _refuse_weaker(before: WebConfig, now: WebConfig) -> None:
    """Refuse a configuration with fewer checks, because the file may be half written; also turning TLS on."""
    if (now.tls is None) != (before.tls is None):
        raise SettingsError("tls_server_config: added or removed; restart to turn TLS on or off")
    if before.users and not now.users:
        raise SettingsError("basic_auth_users: no users; restart to allow access without a password")
    if before.tls and now.tls and now.tls.client_auth < before.tls.client_auth:
        raise SettingsError("tls_server_config.client_auth_type: restart to require less of clients")
