"""Prometheus scrapes with a client certificate and a password; the simulator sends over TLS."""

import subprocess
import sys
from pathlib import Path

import bcrypt

from tests.http.secured import Authority
from tests.servers import Prometheus
from tests.support import HANG_SECONDS, running, until


def test_prometheus_and_the_simulator_authenticate(tmp_path: Path) -> None:
    """A scrape with a wrong password fails."""
    web_authority, callback_authority = Authority(tmp_path), Authority(tmp_path, "other")
    web_authority.issue("server")
    web_authority.issue("client", "prometheus.example")
    callback_authority.issue("callback")
    (tmp_path / "web.yml").write_text(
        "tls_server_config:\n"
        "  cert_file: server.crt\n"
        "  key_file: server.key\n"
        "  client_auth_type: RequireAndVerifyClientCert\n"
        "  client_ca_file: ca.pem\n"
        "  min_version: TLS13\n"
        "basic_auth_users:\n"
        f"  prometheus: {bcrypt.hashpw(b'right', bcrypt.gensalt(4)).decode()}\n"
    )
    flags = {
        "web__config__file": "web.yml",
        "callback__tls_cert_file": "callback.crt",
        "callback__tls_key_file": "callback.key",
    }
    clients = {"web": web_authority.client("client"), "callbacks": callback_authority.client()}
    with running(tmp_path, clients, **flags) as exporter:
        simulation = subprocess.run(
            [
                *(sys.executable, "-m", "exporter", "simulate", "--fast", "--tasks=3", "--duration=5m"),
                f"--target=https://127.0.0.1:{exporter.ports['callbacks']}/callbacks",
                "--ca-file=other.pem",
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=HANG_SECONDS,
        )
        assert simulation.returncode == 0, simulation.stderr
        certificates = {"ca_file": "ca.pem", "cert_file": "client.crt", "key_file": "client.key"}
        jobs = {
            password: {
                "scheme": "https",
                "tls_config": {field: str(tmp_path / name) for field, name in certificates.items()},
                "basic_auth": {"username": "prometheus", "password": password},
            }
            for password in ("right", "wrong")
        }
        with Prometheus(tmp_path, exporter.ports["web"], jobs=jobs) as server:
            until(lambda: (server.value("sum(css_relay_tasks{job='right'})") or 0) >= 3, "a scrape")
            until(lambda: "401 Unauthorized" in error_of(server, "wrong"), "the wrong password is rejected")
            most = "max_over_time(up{job='wrong'}[1h])"
            until(lambda: server.value(most) is not None, "the target is down")
            assert server.value(most) == 0


def error_of(server: Prometheus, job: str) -> str:
    """Return why the last scrape of a job failed, empty if it did not."""
    targets = server.ask("targets")["activeTargets"]
    return next(str(target["lastError"]) for target in targets if target["labels"]["job"] == job)
