"""The pod of the chart, run by podman: the real image with its variables, user and volumes."""

import os
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import bcrypt
import pytest

from tests import images
from tests.charts import VARIANTS, Objects
from tests.http.secured import Authority
from tests.images import podman, run
from tests.support import until

image = images.image


def written_secrets(folder: Path) -> None:
    """Write the content of each Secret of the pod into its own folder."""
    for name in ("a", "b", "c", "d", "e"):
        (folder / name).mkdir()
    (folder / "a" / "tokens").write_text("secret-token")
    (folder / "b" / "keys").write_text("key")
    Authority(folder / "c").issue("tls")
    Authority(folder / "d").issue("tls")
    password = bcrypt.hashpw(b"right", bcrypt.gensalt(4)).decode()
    (folder / "d" / "web.yml").write_text(
        "tls_server_config: {cert_file: tls.crt, key_file: tls.key}\n"
        f"basic_auth_users: {{probe: {password}}}\n"
    )
    (folder / "e" / "username").write_text("probe")
    (folder / "e" / "password").write_text("right")


class Pod:
    """The pod without a kubelet: its volumes are folders with the same owners and modes."""

    def __init__(self, objects: Objects, folder: Path) -> None:
        self.name = f"css-relay-exporter-{uuid4().hex[:12]}"
        self.objects = objects
        self._folder = folder
        self._spec = objects.pod["spec"]

    def start(self, image: str) -> None:
        """Run the container of the pod."""
        context = self._spec["securityContext"]
        limits = self.objects.container["securityContext"]
        assert limits["readOnlyRootFilesystem"]
        podman(
            *("run", "--detach", f"--name={self.name}", "--network=none"),
            *("--read-only", "--read-only-tmpfs=false", "--security-opt=no-new-privileges"),
            *(f"--cap-drop={name}" for name in limits["capabilities"]["drop"]),
            *(f"--user={context['runAsUser']}:{context['runAsGroup']}", f"--group-add={context['fsGroup']}"),
            *(f"--env={name}={value}" for name, value in self.objects.environment.items()),
            *(f"--volume={volume}" for volume in self._volumes(context["fsGroup"])),
            *(image, *self.objects.container["args"]),
        )

    def _volumes(self, group: int) -> Iterator[str]:
        secrets = {v["name"]: v["secret"] for v in self._spec["volumes"] if "secret" in v}
        for mount in self.objects.container["volumeMounts"]:
            secret = secrets.get(mount["name"])
            folder = self._folder / (secret["secretName"] if secret else mount["name"])
            folder.mkdir(exist_ok=True)
            for path in (folder, *folder.iterdir()):
                os.chown(path, 0, group)
                if path != folder and secret:
                    path.chmod(secret["defaultMode"])
            folder.chmod(0o2775)
            yield f"{folder}:{mount['mountPath']}:{'ro' if mount.get('readOnly') else 'rw'}"

    def passes(self, probe: str) -> bool:
        """Return whether a probe passes."""
        command = self.objects.container[probe]["exec"]["command"]
        return run("podman", "exec", self.name, *command, check=False).returncode == 0

    def remove(self) -> None:
        """Remove the container."""
        run("podman", "rm", "--force", "--volumes", self.name, check=False)


@pytest.fixture
def pod(image: str, tmp_path: Path) -> Iterator[Pod]:
    """Yield a running pod with every secret."""
    written_secrets(tmp_path)
    made = Pod(Objects(VARIANTS["behind secrets"]), tmp_path)
    try:
        made.start(image)
        yield made
    finally:
        made.remove()


def test_the_pod_runs_and_its_probes_pass(pod: Pod, tmp_path: Path) -> None:
    """It reads secrets as a group member and writes the store to the volume; commands know the settings."""
    try:
        until(lambda: pod.passes("startupProbe"), "the startup probe passes")
    except AssertionError:
        print(run("podman", "logs", pod.name, check=False))
        raise
    for probe in ("livenessProbe", "readinessProbe"):
        until(lambda probe=probe: pod.passes(probe), f"the {probe} passes")
    store = tmp_path / "data" / "css-relay.db"
    assert (store.stat().st_uid, store.stat().st_mode & 0o777) == (65532, 0o600)
    podman("exec", pod.name, "css-relay-exporter", "check")
    (tmp_path / "e" / "password").unlink()
    assert not pod.passes("livenessProbe")
