"""The operator and its definitions are replaced while runs are in flight, forth and back."""

import itertools
import shutil
import uuid
from datetime import datetime

import pytest
import yaml

from harness import cluster, installation
from harness.events import names, whole_run
from harness.manifests import task, workflow

pytestmark = [pytest.mark.alone, pytest.mark.timeout(240)]

STEPS = 6


def steps():
    return [
        task(f"s-{step}", "sleep 2", **({"dependsOn": [f"s-{step - 1}"]} if step else {})) for step in range(STEPS)
    ]  # fmt: skip


def step_begins(pods, step, workflow=None):
    labels = {"compozy.dev/task": f"s-{step}", **({"compozy.dev/workflow": workflow} if workflow else {})}
    pods.one(lambda pod: labels.items() <= pod["metadata"]["labels"].items(), what=f"step {step}", timeout=60)


def upgrade(release, chart, *arguments, stdin=None):
    cluster.run(
        *("helm", "-n", installation.SPACE, "upgrade", release, str(chart), "--wait", "--timeout", "2m"),
        *arguments, stdin=stdin, timeout=150,
    )  # fmt: skip


def values(**changed):
    """The installed release's values, with these on top."""
    shown = cluster.run("helm", "-n", installation.SPACE, "get", "values", installation.RELEASE, "-o", "yaml")
    return yaml.safe_dump({**(yaml.safe_load(shown) or {}), **changed})


def upgrade_operator(**changed):
    upgrade(installation.RELEASE, installation.ROOT / "charts" / installation.RELEASE,
            "--values", "-", stdin=values(**changed))  # fmt: skip


@pytest.fixture
def one_more_field(tmp_path):
    """The chart of the definitions as a later version may have it: a workflow has one more optional field."""
    original = installation.ROOT / "charts" / "compozy-crds"
    later = tmp_path / "compozy-crds"
    shutil.copytree(original, later)
    [file] = [path for path in later.rglob("*workflows*.yaml") if "CustomResourceDefinition" in path.read_text()]
    definition = yaml.safe_load(file.read_text())
    for version in definition["spec"]["versions"]:
        spec = version["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        spec["note"] = {"type": "string", "maxLength": 100, "description": "What a later version knows."}
    file.write_text(yaml.safe_dump(definition))
    yield later
    upgrade("compozy-crds", original)


@pytest.fixture
def as_installed():
    """Afterwards the operator is installed as it was."""
    before = values()
    yield
    upgrade(installation.RELEASE, installation.ROOT / "charts" / installation.RELEASE,
            "--reset-values", "--values", "-", stdin=before)  # fmt: skip


def assert_went_on(namespace, subscriber, pods, name):
    namespace.succeeded(name, timeout=90)
    assert len(namespace.pods(name)) == STEPS
    made = [pod for pod in pods.seen().values() if pod["metadata"]["labels"]["compozy.dev/workflow"] == name]
    assert len(made) == STEPS, "one pod for each task"
    assert names(whole_run(namespace, subscriber, name, timeout=60)).count("completed") == STEPS + 1


def test_a_run_goes_on_through_an_upgrade_of_all_and_back(namespace, subscriber, one_more_field, as_installed):
    pods = namespace.watch("pods")
    namespace.create(workflow("upgraded", *steps()))
    step_begins(pods, 1)
    upgrade("compozy-crds", one_more_field)
    upgrade_operator(podAnnotations={"example.com/version": uuid.uuid4().hex})
    namespace.create(workflow("downgraded", *steps(), note="from a later version"))
    assert namespace.get("cw", "downgraded")["spec"]["note"]
    step_begins(pods, 1, "downgraded")
    upgrade("compozy-crds", installation.ROOT / "charts" / "compozy-crds")
    upgrade_operator(podAnnotations={"example.com/version": uuid.uuid4().hex})
    assert "note" not in namespace.get("cw", "downgraded")["spec"], "the older definition does not know it"
    for name in ("upgraded", "downgraded"):
        assert_went_on(namespace, subscriber, pods, name)


def test_a_rolling_update_of_two_replicas_leaves_no_gap_of_a_lease(namespace, subscriber, as_installed):
    upgrade_operator(replicas=2)
    leases = cluster.Watch(installation.SPACE, "leases")
    try:
        pods = namespace.watch("pods")
        namespace.create(workflow("rolled", *steps()))
        step_begins(pods, 1)
        cluster.kubectl("-n", installation.SPACE, "rollout", "restart", installation.OPERATOR)
        cluster.kubectl(
            *("-n", installation.SPACE, "rollout", "status", installation.OPERATOR, "--timeout=100s"), timeout=110
        )  # fmt: skip
        assert_went_on(namespace, subscriber, pods, "rolled")
        held = [lease["spec"] for _, lease in leases.history if lease["metadata"]["name"] == installation.LEASE]
    finally:
        leases.close()
    assert len({spec["holderIdentity"] for spec in held if spec.get("holderIdentity")}) >= 2, "it was handed on"
    # One that is given back is held by nobody, and lasts a second.
    held = [spec for spec in held if spec.get("holderIdentity")]
    for before, after in itertools.pairwise(held):
        gap = (renewed(after) - renewed(before)).total_seconds()
        assert gap < after["leaseDurationSeconds"], f"nobody held the lease for {gap} s: {before} {after}"


def renewed(spec):
    return datetime.fromisoformat(spec["renewTime"])
