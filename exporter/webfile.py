"""The form of the web configuration file: its fields, and which of them a text gives.

The format is that of the Prometheus exporter toolkit. What the fields mean is `webconfig`'s.
"""

import re
from typing import Any

import msgspec
import yaml
from msgspec import Struct

from exporter.errors import SettingsError

NULL, MERGE = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"


class TlsSection(Struct, frozen=True, forbid_unknown_fields=True):
    """`tls_server_config`."""

    cert: str = ""
    key: str = ""
    client_ca: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: str = ""
    client_allowed_sans: tuple[str, ...] | None = None
    min_version: str = ""
    max_version: str = ""
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: str = ""
    curve_preferences: tuple[str, ...] = ()


class HttpSection(Struct, frozen=True, forbid_unknown_fields=True):
    """`http_server_config`."""

    http2: str = ""
    headers: dict[str, str] = {}


class RateSection(Struct, frozen=True, forbid_unknown_fields=True):
    """`rate_limit`."""

    interval: str = ""
    burst: str = ""


class WebFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file; what it does not give is empty."""

    tls_server_config: TlsSection = TlsSection()
    http_server_config: HttpSection = HttpSection()
    basic_auth_users: dict[str, str] = {}
    rate_limit: RateSection = RateSection()


class _Loader(yaml.SafeLoader):
    """Reads every scalar as the text it is written as: a name or a password may look like a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Return a mapping in which nothing stands twice."""
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != MERGE]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise SettingsError(f"{twice}: is given twice (line {node.start_mark.line + 1} and after)")
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in (NULL, MERGE)]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_form(text: bytes) -> WebFile:
    """Return the fields that the text of a file gives.

    Raises:
        SettingsError: it is no YAML, or has a field that is unknown, twice or of another form; it is named.
    """
    try:
        given = _present(yaml.load(text, _Loader))  # noqa: S506 - a SafeLoader
        return msgspec.convert({} if given is None else given, WebFile)
    except (yaml.YAMLError, RecursionError) as exc:
        # No more of what it says: it may quote the file, and the file has secrets.
        mark = getattr(exc, "problem_mark", None)
        raise SettingsError(f"line {mark.line + 1 if mark else 1}: expected YAML") from None
    except msgspec.ValidationError as exc:
        raise SettingsError(_named(" ".join(str(exc).split()))) from None


def _present(value: Any) -> Any:
    """Return `value` without what is null in it."""
    if isinstance(value, dict):
        return {key: _present(each) for key, each in value.items() if each is not None}
    return [_present(each) for each in value] if isinstance(value, list) else value


def _named(problem: str) -> str:
    """Return what msgspec says, the field first."""
    what, _, place = problem.partition(" - at ")
    field = place.strip("`").removeprefix("$").removeprefix(".")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", what)
    if unknown:
        return f"{field}.{unknown[1]}".removeprefix(".") + ": is not a field of this file"
    return f"{field or 'the file'}: {what[:1].lower()}{what[1:]}"


def read_switch(field: str, text: str, default: bool) -> bool:
    """Return whether `text` says on, in any way in which YAML may say it.

    Raises:
        SettingsError: it says neither on nor off.
    """
    if text.lower() in ("true", "yes", "on", "y"):
        return True
    if text.lower() in ("false", "no", "off", "n"):
        return False
    if text:
        raise SettingsError(f"{field}: expected true or false")
    return default
