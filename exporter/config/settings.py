"""The flags of the exporter: one row for each flag, with its default and its meaning.

A row is a field of Settings: its type (with the parser), name and help; `config.flags` states what is made
from the rows.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Struct

from exporter.config.flags import (
    DAY,
    IS_SECRET,
    Address,
    Count,
    Duration,
    Networks,
    Switch,
    Text,
    TextList,
    flags_of,
    one_of,
    parse_address,
    parse_limit,
    parse_list,
    parse_path,
    read_flags,
    text_of,
)
from exporter.config.store_url import StoreUrl, parse_store
from exporter.errors import SettingsError
from exporter.metrics.catalogue import LABEL_CHOICES
from exporter.relay import FoldSettings


def parse_labels(text: str) -> tuple[str, ...]:
    """Return the label names in `text`, in the order of LABEL_CHOICES."""
    names = parse_list(text)
    if not names or len(set(names)) < len(names) or not set(names) <= set(LABEL_CHOICES):
        raise ValueError("expected a comma-separated list of " + ", ".join(LABEL_CHOICES))
    # One order, however the flag is written: a store keeps its labels as text and compares that.
    return tuple(name for name in LABEL_CHOICES if name in names)


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of the exporter. Each default is the parsed default of its flag."""

    callback_listen_address: Annotated[
        Address, parse_address, "callback.listen-address", "HOST:PORT for callbacks. Port 0: any free port."
    ] = Address("0.0.0.0", 8314)  # noqa: S104 - this listener faces the internet
    callback_token_file: Annotated[
        Text,
        "callback.token-file",
        "File with secret tokens, one per line (letters, digits and `._~-`). Callbacks are then accepted "
        "only at `/callbacks/<token>`. Empty: no token is needed. Reloaded when it changes.",
    ] = ""
    callback_sign_key_file: Annotated[
        Text,
        "callback.sign-key-file",
        "File with the keys for checking `sign`, one per line. Empty: signatures are not checked. "
        "Reloaded when it changes.",
    ] = ""
    callback_require_sign: Annotated[
        Switch, "callback.require-sign", "Reject callbacks without a signature."
    ] = False
    callback_sign_leeway: Annotated[
        Duration,
        "callback.sign-leeway",
        "Accept a signature for this long after its expiry time. "
        "A redelivery that arrives even later is rejected.",
    ] = 60.0
    callback_allow_from: Annotated[
        Networks, "callback.allow-from", "Networks that may send callbacks. Empty: all."
    ] = ()
    callback_trusted_proxies: Annotated[
        Networks,
        "callback.trusted-proxies",
        "Networks of trusted proxies, comma-separated. X-Forwarded-For and the PROXY protocol are used "
        "only if a proxy of these networks sends them. Empty: never.",
    ] = ()
    callback_rate_limit: Annotated[
        float,
        parse_limit,
        "callback.rate-limit",
        "Maximum requests per second from one address; bursts up to twice that. `off`: no limit.",
    ] = 0.0
    callback_max_body_bytes: Annotated[
        Count, "callback.max-body-bytes", "Maximum body size in bytes. Larger bodies get a 413."
    ] = 65536
    callback_tls_cert_file: Annotated[
        Text,
        "callback.tls-cert-file",
        "PEM file with the certificate of the callback listener, then its intermediate certificates. "
        "Empty: plain HTTP. Reloaded when it changes.",
    ] = ""
    callback_tls_key_file: Annotated[
        Text, "callback.tls-key-file", "PEM file with the unencrypted key. Reloaded when it changes."
    ] = ""
    http_idle_timeout: Annotated[
        Duration,
        "http.idle-timeout",
        "Close a connection that has sent no request for this long, on both listeners. "
        "Set it longer than the idle timeout of a proxy in front.",
    ] = 75.0
    web_listen_address: Annotated[
        Address, parse_address, "web.listen-address", "HOST:PORT for Prometheus and operators."
    ] = Address("127.0.0.1", 10314)
    web_config_file: Annotated[
        Text,
        "web.config.file",
        "File with TLS, passwords and headers of the web listener, in the exporter toolkit's format. "
        "Empty: plain HTTP, no password. Unsupported fields are refused. Reloaded when it changes.",
    ] = ""
    web_telemetry_path: Annotated[str, parse_path, "web.telemetry-path", "URL path of the metrics."] = (
        "/metrics"
    )
    store_url: Annotated[
        StoreUrl,
        parse_store,
        "store.url",
        "The store: `sqlite:PATH`, or for several replicas a server, "
        "`valkey://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`. Other schemes: `redis`; with TLS `valkeys`, "
        "`rediss`; for a cluster `valkey-cluster`, `valkeys-cluster`.",
        IS_SECRET,
    ] = StoreUrl(path="data/css-relay.db")
    store_password_file: Annotated[
        Text,
        "store.password-file",
        "File with the password of the store's server in its first line. Empty: the password in "
        "`--store.url` is used. Reloaded when it changes.",
    ] = ""
    metrics_labels: Annotated[
        tuple[str, ...],
        parse_labels,
        "metrics.labels",
        "Labels of the families that are counted by label set, comma-separated: some of "
        + ", ".join(f"`{name}`" for name in LABEL_CHOICES)
        + ". They can't be changed after the store is created.",
    ] = ("appid", "to_host")
    metrics_max_label_sets: Annotated[
        Count, "metrics.max-label-sets", "Maximum label sets. Further ones count as `_other`."
    ] = 1000
    metrics_max_tasks: Annotated[
        Count,
        "metrics.max-tasks",
        "Maximum number of tasks with series of their own. Above it, stopped tasks are left out first, "
        "then lost and failed ones, active ones last.",
    ] = 2000
    # Fields named `relay_*` enter `fold_settings_fingerprint`: a change makes a sweep check every task.
    relay_retry_window: Annotated[
        Duration, "relay.retry-window", "How long the sender may redeliver a callback."
    ] = 3600.0
    relay_reorder_window: Annotated[
        Duration, "relay.reorder-window", "Wait this long before a callback counts as missing."
    ] = 180.0
    relay_ok_exit_codes: Annotated[
        TextList, "relay.ok-exit-codes", "Exit codes of a planned end; any other code is a failure."
    ] = ("0",)
    relay_lost_after: Annotated[
        Duration,
        "relay.lost-after",
        "An active task is lost after this long without a callback; days without one are normal.",
    ] = 31 * DAY
    relay_forget_after: Annotated[
        Duration, "relay.forget-after", "Delete a failed or lost task after this long."
    ] = 7 * DAY
    relay_forget_stopped_after: Annotated[
        Duration,
        "relay.forget-stopped-after",
        "Delete a stopped task after this long, but never before `--relay.retry-window` has passed.",
    ] = 3600.0
    quarantine_max_bodies: Annotated[
        Count, "quarantine.max-bodies", "Maximum number of bodies in the quarantine."
    ] = 1000
    quarantine_max_bytes: Annotated[
        Count, "quarantine.max-bytes", "Maximum total size of the quarantine, in bytes."
    ] = 16 * 1024 * 1024
    quarantine_max_age: Annotated[
        Duration, "quarantine.max-age", "Delete a quarantined body this long after it was last received."
    ] = 30 * DAY
    redact_plain_hosts: Annotated[
        TextList,
        "redact.plain-hosts",
        "Destination hosts, comma-separated, whose last path segment is a stream name and is shown. "
        "Elsewhere it may be a push key; a digest is shown instead.",
    ] = ("*.myqcloud.com",)
    log_level: Annotated[
        str, one_of("debug", "info", "warning", "error"), "log.level", "Minimum severity of log lines."
    ] = "info"
    log_format: Annotated[str, one_of("logfmt", "json"), "log.format", "Log line format."] = "logfmt"

    @property
    def is_open(self) -> bool:
        """Whether anybody may send callbacks: other machines reach the port, and no check stops them."""
        is_protected = self.callback_token_file or self.callback_require_sign or self.callback_allow_from
        return self.callback_listen_address.is_public and not is_protected

    @property
    def fold_settings(self) -> FoldSettings:
        """The settings of the fold."""
        return FoldSettings(
            retry=self.relay_retry_window,
            reorder=self.relay_reorder_window,
            lost_after=self.relay_lost_after,
            forget_after=self.relay_forget_after,
            forget_stopped_after=self.relay_forget_stopped_after,
            ok_codes=frozenset(self.relay_ok_exit_codes),
        )

    @property
    def fold_settings_fingerprint(self) -> str:
        """The settings that decide what is counted, written as flags."""
        flags = flags_of(Settings)
        deciding = {field: flag for field, flag in flags.items() if field.startswith("relay_")}
        # It decides which callbacks are counted as `_other`.
        deciding["metrics_max_label_sets"] = flags["metrics_max_label_sets"]
        return " ".join(
            f"--{flag.name}={text_of(flag, getattr(self, field))}" for field, flag in deciding.items()
        )


def read(given: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Return the settings, see `read_flags`. A setting that contradicts another one is refused, too."""
    settings = read_flags(Settings, given, environment)
    ports = settings.callback_listen_address.port, settings.web_listen_address.port
    if settings.callback_require_sign and not settings.callback_sign_key_file:
        raise SettingsError("--callback.require-sign: needs --callback.sign-key-file")
    # Two different hosts could share a port, but a mistake is more likely. Port 0 is a free port each time.
    if ports[0] and ports[0] == ports[1]:
        raise SettingsError("--web.listen-address: expected a different port than --callback.listen-address")
    url = settings.store_url
    if settings.store_password_file and (url.is_embedded or url.password):
        raise SettingsError("--store.password-file: needs a server in --store.url, and no password there")
    if bool(settings.callback_tls_cert_file) != bool(settings.callback_tls_key_file):
        raise SettingsError("--callback.tls-cert-file, --callback.tls-key-file: set both or neither")
    return settings
