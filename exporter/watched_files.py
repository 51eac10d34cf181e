"""Every file that may change while the program serves: secrets, certificates, and who may look.

Flags, schema files, and whether a listener has TLS change with a restart alone.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import Any, TypeVar

from msgspec import Struct

from exporter.callbacks.credentials import is_token
from exporter.config.reload import Files, ReloadingFile, secret_lines
from exporter.config.settings import Settings
from exporter.errors import SettingsError
from exporter.server.tls import Pem, TlsConfig, server_context
from exporter.web.web_config import WebConfig, read_web_config

T = TypeVar("T")

WEB_FLAG = "--web.config.file"
CERT_FLAG, KEY_FLAG = "--callback.tls-cert-file", "--callback.tls-key-file"


class WebAccess(Struct, frozen=True):
    """Who may look, and the TLS of the web listener: one value, replaced as a whole."""

    config: WebConfig = WebConfig()
    tls: SSLContext | None = None


class WatchedFiles:
    """The files that the settings name. Each attribute returns what one says now, or is None: there is none.

    The master reads them before it starts a worker, which inherits what was read: a worker that takes the
    place of another comes up even if a file has broken in the meantime.

    Args:
        settings: everything that can be set.

    Raises:
        SettingsError: a file can't be read or used; the text names flag and field.
    """

    def __init__(self, settings: Settings) -> None:
        self._watched: list[ReloadingFile[Any]] = []
        self.tokens = self._secrets(settings.callback_token_file, "--callback.token-file", is_token)
        self.sign_keys = self._secrets(settings.callback_sign_key_file, "--callback.sign-key-file")
        self.store_passwords = self._secrets(settings.store_password_file, "--store.password-file")
        self.callback_tls: Callable[[], SSLContext] | None = None
        if settings.callback_tls_cert_file:
            cert, key = settings.callback_tls_cert_file, settings.callback_tls_key_file
            config = TlsConfig(cert=Pem(CERT_FLAG, cert), key=Pem(KEY_FLAG, key))
            self.callback_tls = self._watch(CERT_FLAG, partial(server_context, config))
        self._web: Callable[[], WebAccess] = WebAccess
        if settings.web_config_file:
            self._web = self._watch(WEB_FLAG, partial(self._read_web, settings.web_config_file))
        self.web_tls = self._newest_web_tls if self._web().tls else None

    def web_config(self) -> WebConfig:
        """Return who may look at the web listener; without a file anybody may."""
        return self._web().config

    def look(self, *, force: bool = False) -> None:
        """Read again what has changed, or with `force` everything.

        The log says what was read again, and what can't be used and why: then what was read before holds.
        """
        for file in self._watched:
            file.look(force=force)

    def _watch(self, name: str, make: Callable[[Files], T]) -> Callable[[], T]:
        file = ReloadingFile(name, make)
        self._watched.append(file)
        return file.current

    def _secrets(
        self, path: str, flag: str, is_valid: Callable[[str], bool] = bool
    ) -> Callable[[], tuple[str, ...]] | None:
        return self._watch(flag, partial(secret_lines, path, flag, is_valid)) if path else None

    def _read_web(self, path: str, files: Files) -> WebAccess:
        is_first = self._web is WebAccess
        try:
            config = read_web_config(files.read(path), Path(path).parent)
            if not is_first:
                _refuse_less(self._web().config, config)
            access = WebAccess(config, server_context(config.tls, files) if config.tls else None)
        except OSError as exc:
            raise SettingsError(f"{WEB_FLAG}={path}: can't be read: {exc.strerror}") from None
        except SettingsError as exc:
            raise SettingsError(f"{WEB_FLAG}={path}: {exc}") from None
        if config.users:
            files.warn_if_open_to_others(path)
        return access

    def _newest_web_tls(self) -> SSLContext:
        tls = self._web().tls
        assert tls is not None  # noqa: S101 - it is not turned off while this runs
        return tls


def _refuse_less(before: WebConfig, now: WebConfig) -> None:
    """Refuse to let in more callers than before: a file that is half written may ask for it.

    Raises:
        SettingsError: TLS, passwords or certificates of clients would be turned off, or TLS on.
    """
    if (now.tls is None) != (before.tls is None):
        raise SettingsError("tls_server_config: restart to turn TLS on or off")
    if before.users and not now.users:
        raise SettingsError("basic_auth_users: restart to let in anybody")
    if before.tls and now.tls and now.tls.client_auth < before.tls.client_auth:
        raise SettingsError("tls_server_config.client_auth_type: restart to ask for less")
