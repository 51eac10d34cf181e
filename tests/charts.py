"""The objects that the Helm chart renders from values, for tests."""

from functools import cache
from typing import Any

import yaml

from deploy.generate import Form, render
from exporter.config.flags import default_text, flags_of
from exporter.config.settings import Settings

NAME = "release"
VALKEY = {"settings": {"store.url": "valkey://valkey.databases:6379"}, "replicas": 3}
GUARDED = {
    "secrets": {"tokens": {"name": "a"}, "signKeys": {"name": "b"}, "callbackTls": {"name": "c"}},
    "web": {"configSecret": "d", "tls": True, "loginSecret": "e"},
    "serviceMonitor": {"enabled": True, "tlsConfig": {"insecureSkipVerify": True}},
}
#: Values of the chart, by a description.
VARIANTS: dict[str, Form] = {
    "nothing set": {},
    "behind secrets": GUARDED,
    "a password of the store": VALKEY | {"secrets": {"storePassword": {"name": "f"}}},
    "client certificates": {"web": {"configSecret": "d", "tls": True, "clientCertificates": True}},
    "names that look like numbers": {
        "secrets": {"tokens": {"name": "1234", "key": "0"}, "storeUrl": {"name": "1e3"}},
        "web": {"configSecret": "0777", "loginSecret": "1"},
        "image": {"pullSecrets": ["2"]},
        "serviceAccountName": "3",
        "serviceMonitor": {"enabled": True},
    },
    "Valkey": VALKEY,
    "Valkey with a password": {"secrets": {"storeUrl": {"name": "valkey"}}, "replicas": 2},
    "everything": GUARDED
    | VALKEY
    | {
        "fullnameOverride": "another-name",
        "image": {"digest": "sha256:" + "0" * 64, "pullSecrets": ["pull"]},
        "service": {
            "type": "LoadBalancer",
            "annotations": {"a": "b"},
            "loadBalancerSourceRanges": ["192.0.2.0/24"],
        },
        "ingress": {
            "enabled": True,
            "className": "public",
            "annotations": {"a": "b"},
            "hosts": ["callbacks.example.org", "*.example.net"],
            "tlsSecret": "certificate",
        },
        "networkPolicy": {
            "callbacks": {"cidrs": ["192.0.2.0/24"], "namespaces": ["ingress"]},
            "web": {"namespaces": ["prometheus", "operators"]},
            "valkey": {"ports": [6379, 16379], "cidrs": ["2001:db8::/32"], "namespaces": ["databases"]},
        },
        "prometheusRule": {"enabled": True, "labels": {"a": "b"}},
        "dashboards": {"enabled": True, "namespace": "grafana", "annotations": {"folder": "Relay"}},
        "podLabels": {"a": "b"},
        "podAnnotations": {"a": "b"},
        "serviceAccountName": "somebody",
        "priorityClassName": "important",
        "nodeSelector": {"a": "b"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "extraArgs": ["--log.level=debug"],
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    },
}


class Objects:
    """The objects that the chart renders from values."""

    def __init__(self, values: Form) -> None:
        rendered = render(values, NAME)
        self.notes = rendered.pop("NOTES.txt")
        self.all: list[dict[str, Any]] = [
            found for text in rendered.values() for found in yaml.safe_load_all(text) if found
        ]

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the objects of a kind."""
        return [found for found in self.all if found["kind"] == kind]

    def one(self, kind: str, end: str = "") -> dict[str, Any]:
        """Return the only object of a kind whose name ends with `end`."""
        (found,) = (each for each in self.of(kind) if each["metadata"]["name"].endswith(end))
        return found

    @property
    def workload(self) -> dict[str, Any]:
        """The StatefulSet or the Deployment."""
        (found,) = self.of("StatefulSet") + self.of("Deployment")
        return found

    @property
    def pod(self) -> dict[str, Any]:
        """The template of its pods."""
        return dict(self.workload["spec"]["template"])

    @property
    def container(self) -> dict[str, Any]:
        """The only container of a pod."""
        (found,) = self.pod["spec"]["containers"]
        return dict(found)

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables of the container with a literal value."""
        return {each["name"]: each["value"] for each in self.container["env"] if "value" in each}


@cache
def variants() -> dict[str, Objects]:
    """Return the objects of every variant."""
    return {name: Objects(values) for name, values in VARIANTS.items()}


def selects(selector: dict[str, str], labelled: dict[str, Any]) -> bool:
    """Return whether the labels of an object match a selector; an empty selector, a mistake, does not."""
    return bool(selector) and selector.items() <= labelled["metadata"]["labels"].items()


def written() -> dict[str, Any]:
    """Return every flag with its default as a value of the chart; flags for files have a made-up path."""
    texts = {flag.name: default_text(Settings, field) for field, flag in flags_of(Settings).items()}
    paths = {name: f"/somewhere/{name}" for name in texts if name.endswith("file")}
    store = {"store.url": "sqlite:/data/other.db"}
    return {name: _value(text) for name, text in (texts | paths | store).items()}


def _value(text: str) -> object:
    if text in ("true", "false"):
        return text == "true"
    return int(text) if text.isdigit() and text != "0" else text
