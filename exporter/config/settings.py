"""The flags of the exporter: one row each, with their defaults and meanings.

A row is a field of Settings. Command line, environment, documentation and tests are made from the rows.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from msgspec import Struct

from exporter.config.flags import (
    DAY,
    Address,
    Flag,
    Networks,
    flags_of,
    one_of,
    parse_address,
    parse_count,
    parse_duration,
    parse_limit,
    parse_list,
    parse_networks,
    parse_path,
    parse_switch,
    read_flags,
    text_of,
)
from exporter.config.store_url import StoreUrl, parse_store
from exporter.errors import SettingsError
from exporter.metrics.catalogue import LABEL_CHOICES
from exporter.relay import FoldSettings


def parse_labels(text: str) -> tuple[str, ...]:
    """Return the label names in `text`."""
    names = parse_list(text)
    if not names or len(set(names)) < len(names) or not set(names) <= set(LABEL_CHOICES):
        raise ValueError("expected some of " + ", ".join(LABEL_CHOICES))
    return tuple(name for name in LABEL_CHOICES if name in names)


class Settings(Struct, frozen=True, kw_only=True):
    """Everything that can be set. Defaults here are what the flags' defaults are read as."""

    callback_listen_address: Annotated[
        Address,
        Flag("callback.listen-address", parse_address, "Where callbacks come in. Port 0 takes a free one."),
    ] = Address("0.0.0.0", 8314)  # noqa: S104 - this listener faces the internet
    callback_token_file: Annotated[
        str,
        Flag(
            "callback.token-file",
            str,
            "File with secret tokens, one a line; callbacks then come in at `/callbacks/<token>` alone. "
            "Read again when it changes.",
        ),
    ] = ""
    callback_sign_key_file: Annotated[
        str,
        Flag(
            "callback.sign-key-file", str, "File with keys of `sign`, one a line. Read again when it changes."
        ),
    ] = ""
    callback_require_sign: Annotated[
        bool, Flag("callback.require-sign", parse_switch, "Whether a callback without signature is refused.")
    ] = False
    callback_sign_leeway: Annotated[
        float,
        Flag(
            "callback.sign-leeway",
            parse_duration,
            "For how long after its end a signature still holds; the sender may try again for longer.",
        ),
    ] = 60.0
    callback_allow_from: Annotated[
        Networks, Flag("callback.allow-from", parse_networks, "Networks that may send; none means all.")
    ] = ()
    callback_trusted_proxies: Annotated[
        Networks,
        Flag(
            "callback.trusted-proxies",
            parse_networks,
            "Networks of proxies whose X-Forwarded-For and PROXY protocol are taken for true.",
        ),
    ] = ()
    callback_rate_limit: Annotated[
        float,
        Flag("callback.rate-limit", parse_limit, "Requests a second of one source, twice as many at once."),
    ] = 0.0
    callback_max_body_bytes: Annotated[
        int,
        Flag(
            "callback.max-body-bytes",
            parse_count,
            "Longest body of a callback; longer ones are answered 413.",
        ),
    ] = 65536
    callback_tls_cert_file: Annotated[
        str,
        Flag(
            "callback.tls-cert-file",
            str,
            "PEM file with the callback listener's certificate, and those between it and its root. "
            "Read again when it changes.",
        ),
    ] = ""
    callback_tls_key_file: Annotated[
        str,
        Flag(
            "callback.tls-key-file",
            str,
            "PEM file with the key of that certificate. Read again when it changes.",
        ),
    ] = ""
    http_idle_timeout: Annotated[
        float,
        Flag(
            "http.idle-timeout",
            parse_duration,
            "Time after which a connection without a request is closed, on both listeners. "
            "Keep it longer than a proxy in front keeps its own connections.",
        ),
    ] = 75.0
    web_listen_address: Annotated[
        Address, Flag("web.listen-address", parse_address, "Where Prometheus and operators look.")
    ] = Address("127.0.0.1", 10314)
    web_config_file: Annotated[
        str,
        Flag(
            "web.config.file",
            str,
            "TLS, passwords and headers of the web listener, in the exporter toolkit's format; "
            "unsupported fields are refused. Read again when it changes.",
        ),
    ] = ""
    web_telemetry_path: Annotated[str, Flag("web.telemetry-path", parse_path, "Path of the metrics.")] = (
        "/metrics"
    )
    store_url: Annotated[
        StoreUrl,
        Flag(
            "store.url",
            parse_store,
            "Where everything is kept: `sqlite:PATH`, or for several replicas "
            "`valkey://[USER:PASSWORD@]HOST[:PORT][/DATABASE]`; also `redis`, with TLS `valkeys`, `rediss`, "
            "and `valkey-cluster`.",
            is_secret=True,
        ),
    ] = StoreUrl(path="data/css-relay.db")
    store_password_file: Annotated[
        str,
        Flag(
            "store.password-file",
            str,
            "File with the password of the store's server in its first line, rather than in the URL. "
            "Read again when it changes.",
        ),
    ] = ""
    metrics_labels: Annotated[
        tuple[str, ...],
        Flag(
            "metrics.labels",
            parse_labels,
            "Labels of the fleet's families, of "
            + ", ".join(f"`{name}`" for name in LABEL_CHOICES)
            + ". Fixed when a store is made.",
        ),
    ] = ("appid", "to_host")
    metrics_max_label_sets: Annotated[
        int,
        Flag(
            "metrics.max-label-sets",
            parse_count,
            "Sets of those labels told apart; past it all are `_other`.",
        ),
    ] = 1000
    metrics_max_tasks: Annotated[
        int,
        Flag(
            "metrics.max-tasks",
            parse_count,
            "Tasks with series of their own; past it stopped ones are left out first, then lost and "
            "failed, active last.",
        ),
    ] = 2000
    relay_retry_window: Annotated[
        float, Flag("relay.retry-window", parse_duration, "For how long the sender may repeat a callback.")
    ] = 3600.0
    relay_reorder_window: Annotated[
        float,
        Flag(
            "relay.reorder-window",
            parse_duration,
            "For how long later callbacks may overtake one; what is missing is told after it.",
        ),
    ] = 180.0
    relay_ok_exit_codes: Annotated[
        tuple[str, ...],
        Flag("relay.ok-exit-codes", parse_list, "Exit codes of a planned end; every other one is a failure."),
    ] = ("0",)
    relay_lost_after: Annotated[
        float,
        Flag("relay.lost-after", parse_duration, "An active task without any callback for so long is lost."),
    ] = 31 * DAY
    relay_forget_after: Annotated[
        float, Flag("relay.forget-after", parse_duration, "When a failed or lost task is forgotten.")
    ] = 7 * DAY
    relay_forget_stopped_after: Annotated[
        float,
        Flag(
            "relay.forget-stopped-after",
            parse_duration,
            "When a stopped task is forgotten; never before the retry window is over.",
        ),
    ] = 3600.0
    quarantine_max_bodies: Annotated[
        int, Flag("quarantine.max-bodies", parse_count, "Refused bodies and unknown events kept for a look.")
    ] = 1000
    quarantine_max_bytes: Annotated[
        int, Flag("quarantine.max-bytes", parse_count, "How long all of them may be together.")
    ] = 16 * 1024 * 1024
    quarantine_max_age: Annotated[
        float, Flag("quarantine.max-age", parse_duration, "When one that came no more is given up.")
    ] = 30 * DAY
    redact_plain_hosts: Annotated[
        tuple[str, ...],
        Flag(
            "redact.plain-hosts",
            parse_list,
            "Destinations whose last path segment is a stream name; elsewhere it may be a key, "
            "and a digest stands for it.",
        ),
    ] = ("*.myqcloud.com",)
    log_level: Annotated[
        str, Flag("log.level", one_of("debug", "info", "warning", "error"), "Least severity that is logged.")
    ] = "info"
    log_format: Annotated[str, Flag("log.format", one_of("logfmt", "json"), "Form of the log.")] = "logfmt"

    @property
    def is_open(self) -> bool:
        """Whether anybody may send callbacks."""
        guarded = self.callback_token_file or self.callback_require_sign or self.callback_allow_from
        return self.callback_listen_address.is_public and not guarded

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
        """The settings that decide what is counted, as flags."""
        flags = flags_of(Settings)
        deciding = {field: flag for field, flag in flags.items() if field.startswith("relay_")}
        deciding["metrics_max_label_sets"] = flags["metrics_max_label_sets"]
        return " ".join(
            f"--{flag.name}={text_of(flag, getattr(self, field))}" for field, flag in deciding.items()
        )


def read(given: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Return the settings: a flag before its environment variable before its default.

    Raises:
        SettingsError: one is unknown or malformed, or two go ill together; the text names it.
    """
    settings = read_flags(Settings, given, environment)
    ports = settings.callback_listen_address.port, settings.web_listen_address.port
    if settings.callback_require_sign and not settings.callback_sign_key_file:
        raise SettingsError("--callback.require-sign: expected a --callback.sign-key-file")
    if ports[0] and ports[0] == ports[1]:
        raise SettingsError(
            "--web.listen-address: expected another port than that of --callback.listen-address"
        )
    url = settings.store_url
    if settings.store_password_file and (url.is_embedded or url.password):
        raise SettingsError("--store.password-file: expected a server in --store.url, without a password")
    if bool(settings.callback_tls_cert_file) != bool(settings.callback_tls_key_file):
        raise SettingsError("--callback.tls-cert-file, --callback.tls-key-file: expected both or none")
    return settings
