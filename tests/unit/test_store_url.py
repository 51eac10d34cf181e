"""`--store.url`: its parts, and its password, which is never shown."""

import pytest

from exporter.config.settings import read
from exporter.config.store_url import StoreUrl, parse_store
from exporter.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sqlite:/a/b.db", StoreUrl(path="/a/b.db")),
        ("valkey://db", StoreUrl(scheme="valkey", host="db")),
        ("redis://db:7000/3", StoreUrl(scheme="redis", host="db", port=7000, database=3)),
        ("valkey://:p%40ss@[::1]:1/", StoreUrl(scheme="valkey", host="::1", port=1, password="p@ss")),
        ("valkey-cluster://u:p@db", StoreUrl(scheme="valkey-cluster", host="db", user="u", password="p")),
        ("valkey://db?wait-replicas=2", StoreUrl(scheme="valkey", host="db", wait_replicas=2)),
        (
            "rediss://db?ca-file=/ca.pem&wait-replicas=1",
            StoreUrl(scheme="rediss", host="db", ca_file="/ca.pem", wait_replicas=1),
        ),
        (
            "rediss://db?ca-file=/ca.pem&cert-file=/c.pem&key-file=/k.pem",
            StoreUrl(scheme="rediss", host="db", ca_file="/ca.pem", cert_file="/c.pem", key_file="/k.pem"),
        ),
    ],
)
def test_a_url_is_parsed(text: str, expected: StoreUrl) -> None:
    """Files, servers, users, TLS."""
    assert parse_store(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "valkey://u:canary@",
        "valkey://u:canary@db:port",
        "valkey://u:canary@db/x",
        "valkey://u:canary@db/0/1",
        "valkey://u:canary@db?ca-file=x",
        "rediss://u:canary@db?password=canary",
        "valkey://u:canary@db?wait-replicas=canary",
        "valkey://u:canary@db?wait-replicas=",
        "valkey://u:canary@db?wait-replicas=-1",
        "valkey-cluster://u:canary@db/1",
        "valkey:/u:canary@db",
        "valkey://u:canary@db#x",
        "valkey://u:canary@[db",
        "http://u:canary@db",
        "sqlite:",
    ],
)
def test_an_invalid_url_is_refused_without_quoting_it(text: str) -> None:
    """The error has the flag and the expected form; the text may contain a password."""
    with pytest.raises(SettingsError, match=r"^--store.url: \w+") as caught:
        read({"store_url": text}, {})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("text", ["valkey://u:canary@db:1/2", "rediss://:canary@[::1]:1/0?ca-file=x"])
def test_a_password_is_in_no_text_form(text: str) -> None:
    """It is neither in str() nor in repr()."""
    url = parse_store(text)
    assert "canary" not in f"{url} {url!r} {[url]}"
    assert str(url).endswith(text.partition("@")[2].partition("?")[0])
