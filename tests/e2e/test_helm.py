"""The charts prove themselves."""

import pytest

from harness import cluster, installation


@pytest.mark.alone
def test_helm_test_passes():
    said = cluster.run("helm", "-n", installation.SPACE, "test", installation.RELEASE, "--timeout", "90s", timeout=100)
    assert "Phase:          Succeeded" in said


@pytest.mark.alone
def test_an_upgrade_keeps_the_credentials_and_the_events():
    before = {user: installation.secret(user) for user in ("operator", "subscriber")}
    values = cluster.run("helm", "-n", installation.SPACE, "get", "values", installation.RELEASE, "-o", "json")
    cluster.run(
        "helm", "-n", installation.SPACE, "upgrade", installation.RELEASE, "--wait", "--timeout", "2m",
        str(installation.ROOT / "charts" / installation.RELEASE), "--values", "-", stdin=values, timeout=150,
    )  # fmt: skip
    assert {user: installation.secret(user) for user in ("operator", "subscriber")} == before
