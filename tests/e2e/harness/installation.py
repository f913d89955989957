"""The installed charts: where things are, and taking them away and bringing them back."""

import base64
import os
from pathlib import Path

from . import cluster

ROOT = Path(__file__).resolve().parents[3]
SPACE = "compozy-system"
RELEASE = "compozy"
OPERATOR = f"deployment/{RELEASE}-operator"
NATS = f"statefulset/{RELEASE}-nats"
LEASE = "compozy-operator"


def installed(release):
    return release in cluster.run("helm", "-n", SPACE, "list", "-q").split()


def install():
    """Installs what is not there, and waits until it works."""
    if not (installed("compozy-crds") and installed(RELEASE)):
        cluster.run(str(ROOT / "hack" / "install"), timeout=400)
    cluster.kubectl("-n", SPACE, "rollout", "status", OPERATOR, "--timeout=60s", timeout=70)
    cluster.kubectl("-n", SPACE, "rollout", "status", NATS, "--timeout=60s", timeout=70)


def uninstall():
    """Takes the operator and NATS away; the definitions stay."""
    cluster.run("helm", "-n", SPACE, "uninstall", RELEASE, "--wait", "--timeout", "2m", timeout=150)


def scale(what, replicas):
    """Scales, and waits until all is there or all is gone."""
    cluster.kubectl("-n", SPACE, "scale", what, f"--replicas={replicas}")
    if replicas:
        cluster.kubectl("-n", SPACE, "rollout", "status", what, "--timeout=90s", timeout=100)
    else:
        component = what.rsplit("-", 1)[1]
        cluster.kubectl(
            "-n", SPACE, "wait", "--for=delete", "pod", "--timeout=90s", timeout=100,
            *("-l", f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component={component}"),
        )  # fmt: skip


def operator_is_there():
    """Whether the installed operator is wanted at all."""
    return cluster.get("-n", SPACE, OPERATOR)["spec"]["replicas"] > 0


def secret(user):
    """Name and password of a NATS user: operator, subscriber or tools."""
    data = cluster.get("-n", SPACE, "secret", f"{RELEASE}-nats-{user}")["data"]
    return base64.b64decode(data["username"]).decode(), base64.b64decode(data["password"]).decode()


def issuer_key():
    """The key with which the operator vouches for pods to the installed NATS."""
    return base64.b64decode(cluster.get("-n", SPACE, "secret", f"{RELEASE}-nats-issuer")["data"]["issuer.key"])


def executor_image():
    """From which image the pods of tools take the executor."""
    [container] = cluster.get("-n", SPACE, OPERATOR)["spec"]["template"]["spec"]["containers"]
    return next(one["value"] for one in container["env"] if one["name"] == "COMPOZY_EXECUTOR_IMAGE")


def nats_url():
    """NATS at its service address, which this machine reaches as a node does."""
    address = cluster.get("-n", SPACE, "service", f"{RELEASE}-nats")["spec"]["clusterIP"]
    return f"nats://{address}:4222"


def operator_log(about=""):
    """The last lines of the installed operator's log that are complaints or hold these words."""
    pods = ("-l", f"app.kubernetes.io/instance={RELEASE},app.kubernetes.io/component=operator")
    return end_of_log(cluster.kubectl("-n", SPACE, "logs", *pods, "--tail=2000", timeout=20), about)


def end_of_log(text, about, lines=60):
    """The last lines of a log that are complaints or hold these words."""
    words = (about, "WARN", "ERROR")
    return "\n".join([line for line in text.splitlines() if any(word in line for word in words)][-lines:])


def operator_process():
    """The host's id of the process in the operator's pod: its cgroup names the pod."""
    [pod] = cluster.get("-n", SPACE, "pods", "-l", "app.kubernetes.io/component=operator")
    uid = pod["metadata"]["uid"]
    names_of_uid = (uid, uid.replace("-", "_"))
    for process in filter(lambda path: path.name.isdigit(), Path("/proc").iterdir()):
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")[0]
            group = (process / "cgroup").read_text()
        except OSError:  # ended meanwhile
            continue
        if command.endswith(b"/operator") and any(name in group for name in names_of_uid):
            return int(process.name)
    raise AssertionError(f"no process of pod {uid} on this machine")


def processor_seconds(process):
    """How much processor time a process of this machine has used."""
    user, system = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def executor_binary():
    """The executor for this machine, which is built with the operator."""
    return Path(operator_binary()).with_name("executor")


def operator_binary():
    """The operator for this machine: $COMPOZY_OPERATOR_BIN, or what cargo built last for the image or here."""
    if given := os.environ.get("COMPOZY_OPERATOR_BIN"):
        return given
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "compozy-operator"
    target = Path(os.environ.get("CARGO_TARGET_DIR", Path(os.environ.get("COMPOZY_CACHE", cache)) / "target"))
    kinds = ["x86_64-unknown-linux-gnu/release", "release", "debug"]
    found = [target / kind / "operator" for kind in kinds if (target / kind / "operator").exists()]
    assert found, f"no operator binary under {target}: run `make images` or set COMPOZY_OPERATOR_BIN"
    return str(max(found, key=lambda path: path.stat().st_mtime))
