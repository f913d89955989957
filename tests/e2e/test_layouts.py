"""Other layouts than that of the installed charts: releases for one namespace, whose NATS speaks TLS."""

import contextlib
import json
import ssl

import pytest

from harness import certificates, cluster, events, nats_server, release
from harness.events import whole_run
from harness.manifests import handled, task, workflow

pytestmark = pytest.mark.own_operator


@pytest.fixture
def authority(tmp_path):
    return certificates.Authority(tmp_path / "certificates")


def trusting(authority):
    return ssl.create_default_context(cafile=authority.ca)


def runs_workflows_of_its_namespace_alone(namespace, subscriber, rights_in_the_cluster=()):
    with contextlib.closing(cluster.Namespace(f"{namespace.name}-other")) as other:
        other.create(workflow("not-ours", task("only")))
        namespace.create(workflow("ours", task("first"), task("second", dependsOn=["first"])))
        namespace.succeeded("ours")
        whole_run(namespace, subscriber, "ours")
        assert "status" not in other.get("cw", "not-ours"), "it is not of the namespaces that are watched"
    of_the_cluster = cluster.get("clusterroles,clusterrolebindings", "-l", f"app.kubernetes.io/instance={release.NAME}")
    # Beside it another one may run, for another namespace.
    names = {one["metadata"]["name"] for one in of_the_cluster}
    assert {name for name in names if name.endswith(namespace.name) or "tokens" not in name} == set(rights_in_the_cluster)


def leaves_nothing_held(namespace):
    """As its operator is gone, nobody else would take a finalizer off."""
    held = [one["metadata"]["name"] for one in namespace.get("cw,te,pods") if one["metadata"].get("finalizers")]
    assert held == []


def test_two_replicas_in_one_namespace_with_an_external_nats_that_asks_for_certificates(namespace, authority, tmp_path):
    address = cluster.nodes()[0]["status"]["addresses"][0]["address"]
    server = authority.issue("server", f"IP:{address}")
    client = authority.issue("operator", "DNS:operator")
    demands = f"""
        tls {{ cert_file: {json.dumps(str(server[0]))}, key_file: {json.dumps(str(server[1]))}
               ca_file: {json.dumps(str(authority.ca))}, verify: true }}
        authorization {{ user: compozy, password: "s3cret" }}
    """
    namespace.kubectl(
        "create", "secret", "generic", "who", "--from-literal=username=compozy", "--from-literal=password=s3cret"
    )
    namespace.kubectl("create", "secret", "generic", "trusted", f"--from-file=ca.crt={authority.ca}")
    namespace.kubectl("create", "secret", "tls", "client", f"--cert={client[0]}", f"--key={client[1]}")
    trusted = trusting(authority)
    trusted.load_cert_chain(*client)
    with contextlib.ExitStack() as undo:
        nats = nats_server.HostNats(tmp_path / "nats", address=address, demands=demands)
        undo.callback(nats.close)
        external = {
            "url": nats.url,
            "existingSecret": "who",
            "tls": {"caSecret": "trusted", "clientSecret": "client"},
        }
        made = undo.enter_context(
            release.release(namespace.name, {"replicas": 2, "nats": {"enabled": False, "external": external}})
        )
        subscriber = events.Subscriber(nats.url, "compozy", "s3cret", tls=trusted)
        undo.callback(subscriber.close)
        runs_workflows_of_its_namespace_alone(namespace, subscriber)
        made.uninstall()
        leaves_nothing_held(namespace)


def test_the_bundled_nats_speaks_tls_with_a_certificate_of_yours(namespace, authority):
    host = f"{release.NAME}-nats.{namespace.name}.svc"
    certificate, key = authority.issue("server", f"DNS:{host}")
    namespace.kubectl(
        "create", "secret", "generic", "served",
        *(f"--from-file={name}={path}" for name, path in (
            ("tls.crt", certificate), ("tls.key", key), ("ca.crt", authority.ca),
        )),
    )  # fmt: skip
    values = {"nats": {"tls": {"existingSecret": "served"}, "persistence": {"enabled": False}}}
    with release.release(namespace.name, values) as made:
        subscriber = events.Subscriber(
            made.nats_url(), *made.nats_user("subscriber"), tls=trusting(authority), tls_hostname=host
        )
        with contextlib.closing(subscriber):
            # Whose a token is has no namespace.
            tokens = f"{release.NAME}-operator-tokens-{namespace.name}"
            runs_workflows_of_its_namespace_alone(namespace, subscriber, [tokens])
        namespace.create(handled("echo", exec={"command": ["cat"]}))
        namespace.create(workflow("asks", {"name": "ask", "tool": {"name": "echo"}, "with": {"n": 1}}))
        namespace.succeeded("asks")
        made.uninstall()
        leaves_nothing_held(namespace)
