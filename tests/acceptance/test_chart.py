"""The Helm chart and the plain manifests: checks with Helm, Kubernetes schemas, promtool and an exporter."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import bcrypt
import helm_python
import kubernetes_validate
import pytest
import yaml
from helm_python import Chart, HelmRenderError, HelmValuesError
from kubernetes_validate.utils import all_versions

from deploy.generate import CHART, MANIFESTS, Form, files
from exporter import __version__
from exporter.cli import parse
from exporter.config.flags import flags_of
from exporter.config.settings import Settings, read
from tests.charts import NAME, VALKEY, VARIANTS, Objects, selects, variants, written
from tests.http.secured import Authority
from tests.npm import installed, node
from tests.rules import RULES
from tests.support import HANG_SECONDS, Exporter, tool, until

ROOT = Path(__file__).parents[2]
VERSIONS = sorted(set(all_versions()), key=lambda version: [int(part) for part in version.split(".")])
#: The maximum size of an object for kubectl apply, which stores a copy of it in an annotation.
MAX_APPLIED_BYTES = 256 * 1024


def test_helm_lint_reports_nothing() -> None:
    """For all variants, except for the recommendation of an icon."""
    for name, values in VARIANTS.items():
        report = helm_python.lint(CHART, values, strict=True)
        assert report["errors"] == [], name
        assert [m["error"] for m in report["messages"]] == ["icon is recommended"], name


def schema_errors(objects: Sequence[dict[str, Any]], versions: Sequence[str]) -> Iterator[str]:
    """Yield the errors of Kubernetes objects by the schemas of these versions."""
    for found in objects:
        if not found["apiVersion"].startswith("monitoring.coreos.com/"):
            for version in versions:
                try:
                    kubernetes_validate.validate(found, version, strict=True)
                except kubernetes_validate.ValidationError as exc:
                    yield f"{found['kind']} {found['metadata']['name']} of {version}: {exc.message}"


def test_the_oldest_and_the_newest_kubernetes_know_every_field_of_every_variant() -> None:
    """A field that both versions know is also known to the versions between them."""
    different = {json.dumps(found): found for objects in variants().values() for found in objects.all}
    assert list(schema_errors(list(different.values()), (VERSIONS[0], VERSIONS[-1]))) == []


def test_every_kubernetes_between_knows_an_object_of_each_kind() -> None:
    """The largest object of each kind in any variant."""
    fullest: dict[str, dict[str, Any]] = {}
    for found in sorted((f for o in variants().values() for f in o.all), key=lambda f: len(json.dumps(f))):
        fullest[found["kind"]] = found
    assert list(schema_errors(list(fullest.values()), VERSIONS[1:-1])) == []


def test_a_planted_fault_is_found() -> None:
    """The check itself can fail."""
    workload = Objects({}).workload
    workload["spec"]["template"]["spec"]["enableServiceLink"] = False
    (fault,) = schema_errors([workload], VERSIONS[-1:])
    assert fault.startswith("StatefulSet release")
    assert "enableServiceLink" in fault


OPERATOR = """
import {text} from "node:stream/consumers";
import * as kinds from "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1";
for (const found of JSON.parse(await text(process.stdin))) {
  try { new kinds[found.kind](found).validate(); } catch (error) { console.log(error.message); }
}
"""


def test_the_prometheus_operator_accepts_its_kinds() -> None:
    """The models of its API find a wrong type or format, but no unknown field."""
    objects = Objects(VARIANTS["everything"])
    kinds = [*objects.of("ServiceMonitor"), *objects.of("PrometheusRule")]
    folder = installed()
    assert len(kinds) == 2
    assert node(folder, OPERATOR, json.dumps(kinds)) == ""
    kinds[0]["spec"]["endpoints"][0]["interval"] = "30 s"
    kinds[1]["spec"]["groups"][0]["rules"][0].pop("expr")
    faults = node(folder, OPERATOR, json.dumps(kinds))
    assert "interval must match" in faults
    assert "must have required property expr" in faults


def test_the_chart_is_of_this_version_and_for_the_versions_that_are_tested() -> None:
    """The image tag is the version of the project."""
    with Chart.load(CHART) as chart:
        assert (chart.version, chart.metadata["appVersion"]) == (__version__, __version__)
        assert chart.metadata["kubeVersion"] == f">={VERSIONS[0]}-0"
    assert Objects({}).container["image"] == f"css-relay-exporter:{__version__}"
    assert Objects({"image": {"tag": "x"}}).container["image"] == "css-relay-exporter:x"


def test_the_packaged_chart_renders_the_same(tmp_path: Path) -> None:
    """Rules and dashboards are links in the folder, and files in the package."""
    values = VARIANTS["everything"]
    with (
        Chart.load(CHART) as folder,
        Chart.load(helm_python.package(CHART, destination=tmp_path)) as packaged,
    ):
        assert packaged.render(values, name=NAME) == folder.render(values, name=NAME)


def test_generated_files_are_up_to_date() -> None:
    """`make chart` updates them."""
    assert [str(path) for path, text in files().items() if path.read_text() != text] == []


def test_the_plain_manifests_are_all_that_is_listed() -> None:
    """There is no outdated file, and no file is missing in the lists."""
    for folder in (MANIFESTS, MANIFESTS / "prometheus-operator"):
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        assert {path.name for path in folder.glob("*.yaml")} == {*listed, "kustomization.yaml"}
    assert "helm" not in "".join(
        line for path in MANIFESTS.rglob("*.yaml") for line in path.read_text().splitlines()[1:]
    )


# The pods


def assert_restricted(what: str, pod: dict[str, Any], *kinds: str) -> None:
    """Check that a pod obeys the Pod Security Standard `restricted` and has only these kinds of volumes."""
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & pod.keys(), what
    assert pod["securityContext"]["runAsNonRoot"] is True, what
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] == 65532, what
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, what
    assert pod["automountServiceAccountToken"] is False, what
    assert pod["enableServiceLinks"] is False, what
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, what
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} <= set(kinds), what


def test_pods_of_every_variant_are_restricted_mount_all_their_volumes_and_have_the_time_to_drain() -> None:
    """The data is on the only persistent volume; a stop takes 25 s, plus the time of the preStop hook."""
    for name, objects in variants().items():
        pod, is_embedded = objects.pod["spec"], objects.workload["kind"] == "StatefulSet"
        assert_restricted(name, pod, "emptyDir", "secret")
        claims = objects.workload["spec"].get("volumeClaimTemplates", ())
        there = {volume["name"] for volume in pod["volumes"]}
        there |= {claim["metadata"]["name"] for claim in claims}
        mounts = {mount["name"]: mount for mount in objects.container["volumeMounts"]}
        assert mounts.keys() == there, name
        assert ("data" in mounts) is is_embedded, name
        assert [mounts["data"]["mountPath"] for _ in claims] == ["/data" for _ in claims], name
        assert pod["terminationGracePeriodSeconds"] == 30, name
        assert ("lifecycle" in objects.container) is not is_embedded, name


def test_secret_files_are_readable_by_the_group_only() -> None:
    """The exporter refuses secret files that other users can read."""
    pod = variants()["behind secrets"].pod["spec"]
    secrets = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert [secret["secretName"] for secret in secrets] == ["a", "b", "c", "d", "e"]
    assert {secret["defaultMode"] for secret in secrets} == {0o440}


def test_an_sqlite_store_allows_one_replica() -> None:
    """It is a StatefulSet, which never runs two pods at once; the chart refuses more replicas."""
    assert Objects({}).workload["kind"] == "StatefulSet"
    assert Objects({"replicas": 0}).workload["spec"]["replicas"] == 0
    with pytest.raises(HelmRenderError, match="replicas: an SQLite store allows only 1"):
        Objects({"replicas": 2})


def test_a_valkey_store_allows_many_replicas() -> None:
    """They are spread over nodes, one at a time may be drained, and no object contains the password."""
    objects = Objects(VALKEY)
    assert objects.workload["kind"] == "Deployment"
    assert objects.workload["spec"]["replicas"] == 3
    (spread,) = objects.pod["spec"]["topologySpreadConstraints"]
    (budget,) = objects.of("PodDisruptionBudget")
    assert budget["spec"]["maxUnavailable"] == 1
    for selector in (
        spread["labelSelector"],
        budget["spec"]["selector"],
        objects.workload["spec"]["selector"],
    ):
        assert selects(selector["matchLabels"], objects.pod)
    secret = variants()["Valkey with a password"]
    (variable,) = (each for each in secret.container["env"] if each["name"] == "CSS_RELAY_STORE_URL")
    assert variable["valueFrom"]["secretKeyRef"] == {"name": "valkey", "key": "url"}


# Settings


def test_the_exporter_understands_what_is_rendered() -> None:
    """Variables and arguments of every variant are those of its flags."""
    for name, objects in variants().items():
        words = objects.container["args"]
        settings = read(vars(parse(words)), objects.environment)
        assert words[0] == "serve", name
        assert settings.web_listen_address.is_public, name
        ports = {port["name"]: port["containerPort"] for port in objects.container["ports"]}
        assert ports == {
            "callbacks": settings.callback_listen_address.port,
            "web": settings.web_listen_address.port,
        }, name


def test_every_flag_can_be_set() -> None:
    """The exporter gets the same text; integers are not rendered as floats."""
    values = written()
    assert values.keys() == {flag.name for flag in flags_of(Settings).values()}
    environment = Objects({"settings": values}).environment
    assert environment == {flag.variable: _text(values[flag.name]) for flag in flags_of(Settings).values()}
    # The flags of the password are invalid with an SQLite store.
    read({}, environment | {"CSS_RELAY_STORE_URL": "valkey://db"})


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_lists_are_lists_and_ports_follow() -> None:
    """Lists are YAML lists; the ports of Services follow the listen addresses."""
    values = {
        "relay.ok-exit-codes": [0, -32],
        "metrics.labels": ["appid", "to_host"],
        "callback.allow-from": ["192.0.2.0/24", "2001:db8::/32"],
        "web.listen-address": "[::]:9999",
    }
    objects = Objects({"settings": values})
    settings = read({}, objects.environment)
    assert settings.relay_ok_exit_codes == ("0", "-32")
    assert len(settings.callback_allow_from) == 2
    assert {port["containerPort"] for port in objects.container["ports"]} == {8314, 9999}
    assert objects.one("Service", "-web")["spec"]["ports"][0]["port"] == 9999


MISTAKES: list[tuple[Form, str]] = [
    ({"replica": 2}, "replica"),
    ({"replicas": "2"}, "replicas"),
    ({"settings": {"callback.rate_limit": 5}}, "callback.rate_limit"),
    ({"settings": {"relay.retry-window": "1 hour"}}, "relay.retry-window"),
    ({"settings": {"log.level": "loud"}}, "log.level"),
    ({"settings": {"callback.require-sign": "yes"}}, "callback.require-sign"),
    ({"settings": {"metrics.labels": ["tenant"]}}, "metrics.labels"),
    ({"settings": {"store.url": "sqlite:data/css-relay.db"}}, "store.url"),
    ({"settings": {"store.url": "valkey://:password@valkey"}}, "store.url"),
    ({"settings": {"store.url": None}}, "store.url"),
    ({"secrets": {"token": {"name": "a"}}}, "token"),
    ({"secrets": {"tokens": "a"}}, "tokens"),
    ({"image": {"digest": "latest"}}, "digest"),
    ({"volume": {"accessModes": ["ReadWriteMany"]}}, "accessModes"),
    ({"ingress": {"hosts": ["https://example.org"]}}, "hosts"),
    ({"networkPolicy": {"callbacks": {"cidrs": ["192.0.2.1"]}}}, "cidrs"),
    ({"networkPolicy": {"web": {"cidrs": ["0.0.0.0/0"]}}}, "cidrs"),
    ({"service": {"type": "ExternalName"}}, "type"),
]


def test_a_mistake_in_values_is_refused_and_named() -> None:
    """Before rendering: a wrong name, type, format or choice."""
    for values, named in MISTAKES:
        try:
            with pytest.raises(HelmValuesError, match=named), Chart.load(CHART) as chart:
                chart.validate_schema(values)
            with pytest.raises((HelmValuesError, HelmRenderError), match=named):
                Objects(values)
        except pytest.fail.Exception as exc:
            pytest.fail(f"{values}: {exc}")


CONFLICTS: list[tuple[Form, str]] = [
    ({"ingress": {"enabled": True}}, "ingress.hosts: expected at least one"),
    ({"web": {"tls": True}}, "web.configSecret: expected the Secret"),
    (
        {"web": {"configSecret": "a", "clientCertificates": True}},
        "web.clientCertificates: set web.tls to true too",
    ),
    (
        {"secrets": {"tokens": {"name": "a"}}, "settings": {"callback.token-file": "/b"}},
        "settings.callback.token-file: the chart already sets it from the Secret a",
    ),
]


def test_contradicting_values_are_refused() -> None:
    """With a message that says what to change."""
    for values, said in CONFLICTS:
        try:
            with pytest.raises(HelmRenderError, match=said):
                Objects(values)
        except pytest.fail.Exception as exc:
            pytest.fail(f"{values}: {exc}")


def test_the_notes_warn_about_an_open_listener() -> None:
    """A chart without token, signature or allow list."""
    assert "WARNING: anybody" in Objects({}).notes
    assert "WARNING: anybody" not in variants()["behind secrets"].notes
    assert (
        "https://release-callbacks.css-relay:8314/callbacks/<token>\n" in variants()["behind secrets"].notes
    )
    assert "https://callbacks.example.org/callbacks/<token>\n" in variants()["everything"].notes


# Network access


def test_each_listener_has_a_service() -> None:
    """Each Service has one port, which the pods expose, in every variant."""
    for name, objects in variants().items():
        services = objects.of("Service")
        assert len(services) == 2, name
        ports = {port["name"] for port in objects.container["ports"]}
        for service in services:
            (port,) = service["spec"]["ports"]
            assert selects(service["spec"]["selector"], objects.pod), name
            assert port["targetPort"] in ports, name
            assert service["metadata"]["name"].endswith(f"-{port['name']}"), name
        assert objects.one("Service", "-web")["spec"]["clusterIP"] == "None", name
        assert objects.one("Service", "-web")["spec"]["publishNotReadyAddresses"] is True, name


def test_an_ingress_serves_only_callbacks() -> None:
    """The web listener has no Ingress, and no address outside of the cluster."""
    objects = variants()["everything"]
    (ingress,) = objects.of("Ingress")
    service = objects.one("Service", "-callbacks")
    rules = ingress["spec"]["rules"]
    assert [rule["host"] for rule in rules] == ingress["spec"]["tls"][0]["hosts"]
    for rule in rules:
        (path,) = rule["http"]["paths"]
        assert path["path"] == "/callbacks"
        assert path["backend"]["service"] == {
            "name": service["metadata"]["name"],
            "port": {"name": service["spec"]["ports"][0]["name"]},
        }
    assert "type" not in objects.one("Service", "-web")["spec"]
    assert Objects({}).of("Ingress") == []


def peers(rule: dict[str, Any], key: str = "from") -> list[str]:
    """Return the peers of a network policy rule as text; `anybody` if it has none."""
    if key not in rule:
        return ["anybody"]
    return [name for peer in rule[key] for name in _names(peer)]


def _names(peer: dict[str, Any]) -> list[str]:
    if "ipBlock" in peer:
        return [peer["ipBlock"]["cidr"]]
    if "podSelector" in peer:
        return ["own namespace"]
    expressions = peer["namespaceSelector"].get("matchExpressions")
    return list(expressions[0]["values"]) if expressions else ["any namespace"]


def test_the_network_policy_separates_senders_and_operators() -> None:
    """With SQLite no egress is allowed."""
    for values, senders, lookers in (
        ({}, ["anybody"], ["own namespace", "monitoring"]),
        ({"networkPolicy": {"web": {"namespaces": []}}}, ["anybody"], ["own namespace"]),
        (VARIANTS["everything"], ["192.0.2.0/24", "ingress"], ["own namespace", "prometheus", "operators"]),
    ):
        objects = Objects(values)
        policy = objects.one("NetworkPolicy")["spec"]
        assert selects(policy["podSelector"]["matchLabels"], objects.pod)
        assert policy["policyTypes"] == ["Ingress", "Egress"]
        rules = {rule["ports"][0]["port"]: rule for rule in policy["ingress"]}
        assert {port: len(rule["ports"]) for port, rule in rules.items()} == {"callbacks": 1, "web": 1}
        assert peers(rules["callbacks"]) == senders
        assert peers(rules["web"]) == lookers
    assert Objects({}).one("NetworkPolicy")["spec"]["egress"] == []


def test_the_network_policy_allows_only_dns_and_the_store() -> None:
    """At any address, or at the configured ones."""
    for values, there in ((VALKEY, ["anybody"]), (VARIANTS["everything"], ["2001:db8::/32", "databases"])):
        dns, valkey = Objects(values).one("NetworkPolicy")["spec"]["egress"]
        assert {port["port"] for port in dns["ports"]} == {53}
        assert peers(dns, "to") == ["any namespace", "169.254.20.10/32"]
        assert 6379 in {port["port"] for port in valkey["ports"]}
        assert peers(valkey, "to") == there


# Monitoring


def test_prometheus_finds_only_the_web_service() -> None:
    """With the scheme and the password of the web listener; all replicas are one job."""
    for values, scheme in (
        ({"serviceMonitor": {"enabled": True}}, "http"),
        (VARIANTS["everything"], "https"),
    ):
        objects = Objects(values)
        monitor = objects.one("ServiceMonitor")["spec"]
        chosen = [s for s in objects.of("Service") if selects(monitor["selector"]["matchLabels"], s)]
        assert chosen == [objects.one("Service", "-web")]
        (endpoint,) = monitor["endpoints"]
        assert endpoint["port"] == chosen[0]["spec"]["ports"][0]["name"]
        assert endpoint["scheme"] == scheme
        assert ("basicAuth" in endpoint) is (scheme == "https")
        assert chosen[0]["metadata"]["labels"][monitor["jobLabel"]] == NAME
    path = {"settings": {"web.telemetry-path": "/m"}, "serviceMonitor": {"enabled": True}}
    assert Objects(path).one("ServiceMonitor")["spec"]["endpoints"][0]["path"] == "/m"


def test_the_rules_are_those_of_the_repository(tmp_path: Path) -> None:
    """With the configured addresses; promtool reports nothing."""
    addresses = {"docsUrl": "https://wiki.example.org/relay", "grafanaUrl": "https://g.example.org/grafana"}
    made = Objects({"prometheusRule": {"enabled": True, **addresses}}).one("PrometheusRule")["spec"]
    text = "".join(json.dumps(yaml.safe_load(path.read_text())["groups"]) for path in sorted(RULES.iterdir()))
    text = text.replace("https://css-relay-exporter.example/docs", addresses["docsUrl"])
    text = text.replace("https://grafana.example/", addresses["grafanaUrl"] + "/")
    assert made["groups"] == json.loads(text.replace("][", ", "))
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump(made))
    command = [tool("promtool"), "check", "rules", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_dashboards_are_those_of_the_repository() -> None:
    """One ConfigMap each, small enough for kubectl apply, with the label for the sidecar."""
    made: dict[str, str] = {}
    for found in Objects({"dashboards": {"enabled": True}}).of("ConfigMap"):
        assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert len(json.dumps(found)) < MAX_APPLIED_BYTES
        made |= found["data"]
    there = (ROOT / "grafana" / "dashboards").glob("*.json")
    assert {name: json.loads(text) for name, text in made.items()} == {
        path.name: json.loads(path.read_text()) for path in there
    }


# docs/kubernetes.md

BLOCKS = [
    yaml.safe_load(text)
    for text in re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "kubernetes.md").read_text(), re.S)
]


def test_documented_values_are_valid() -> None:
    """The values are valid, and so are the rendered objects."""
    examples = [block for block in BLOCKS if "kind" not in block]
    assert len(examples) == 3
    for values in examples:
        assert list(schema_errors(Objects(values).all, VERSIONS[-1:])) == []


def test_the_documented_pod_is_restricted_too() -> None:
    """It uses the volume of the exporter."""
    (pod,) = (block for block in BLOCKS if block.get("kind") == "Pod")
    assert list(schema_errors([pod], VERSIONS[:1])) == []
    assert_restricted("the documented pod", pod["spec"], "persistentVolumeClaim")
    claim = pod["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
    (template,) = Objects({}).workload["spec"]["volumeClaimTemplates"]
    assert claim == f"{template['metadata']['name']}-css-relay-0"


# With a real exporter


def ask(objects: Objects, probe: str, port: int, folder: Path) -> int:
    """Run the command of a probe as the kubelet would; return its exit status."""
    python, *words = objects.container[probe]["exec"]["command"]
    assert python == "python"
    words = [word.replace(":10314", f":{port}").replace("/etc/css-relay", str(folder)) for word in words]
    done = subprocess.run([sys.executable, *words], capture_output=True, check=False, timeout=HANG_SECONDS)
    return done.returncode


def test_it_starts_with_its_secrets_and_is_probed_behind_a_password(tmp_path: Path) -> None:
    """Files as mounted, variables as rendered, TLS and a password on the web listener."""
    objects = variants()["behind secrets"]
    texts = {
        "tokens/tokens": "secret-token",
        "sign-keys/keys": "key",
        "web/web.yml": "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n"
        f"basic_auth_users: {{probe: {bcrypt.hashpw(b'right', bcrypt.gensalt(4)).decode()}}}",
        "login/username": "probe",
        "login/password": "right",
    }
    for name in (*texts, "callback-tls/"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "callback-tls").mkdir(exist_ok=True)
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o440)
    authority = Authority(tmp_path)
    for folder in ("web", "callback-tls"):
        authority.issue("tls")
        for end in ("crt", "key"):
            (tmp_path / f"tls.{end}").rename(tmp_path / folder / f"tls.{end}")
    environment = {
        name: value.replace("/etc/css-relay", str(tmp_path)).replace("/data", str(tmp_path))
        for name, value in objects.environment.items()
    }
    exporter = Exporter(tmp_path, environment)
    exporter.tls = {"callbacks": authority.client(), "web": authority.client()}
    try:
        exporter.start()
        assert exporter.post(b"{", "/callbacks/secret-token")[0] == 400
        assert exporter.post(b"{")[0] == 404
        port = exporter.ports["web"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            until(lambda probe=probe: ask(objects, probe, port, tmp_path) == 0, f"the {probe} passes")
        command = [sys.executable, "-m", "exporter", "quarantine", "list"]
        done = subprocess.run(command, env=exporter.environment, capture_output=True, text=True, check=False)
        assert "json" in done.stdout, done.stderr
        (tmp_path / "login" / "password").unlink()
        (tmp_path / "login" / "password").write_text("wrong")
        assert ask(objects, "livenessProbe", port, tmp_path) != 0
        exporter.kill()
        assert ask(objects, "livenessProbe", port, tmp_path) != 0
    finally:
        exporter.kill()


def test_probes_match_the_web_listener() -> None:
    """Health for restarts, readiness for routing; with client certificates only the open port is checked."""
    plain = Objects({}).container
    assert plain["livenessProbe"]["httpGet"] == {"path": "/-/healthy", "port": "web", "scheme": "HTTP"}
    assert plain["readinessProbe"]["httpGet"]["path"] == "/-/ready"
    encrypted = Objects({"web": {"configSecret": "a", "tls": True}}).container
    assert encrypted["startupProbe"]["httpGet"]["scheme"] == "HTTPS"
    certified = variants()["client certificates"].container
    assert certified["readinessProbe"]["tcpSocket"] == {"port": "web"}
