"""A further release of the chart, for one namespace and in it, beside the installed one."""

import base64
import contextlib
import json

from . import cluster
from .installation import ROOT

NAME = "team"


class Release:
    """What runs in a namespace, installed with the values of a test."""

    def __init__(self, namespace, values):
        self.namespace = namespace
        self._helm(
            "install", NAME, str(ROOT / "charts" / "compozy"), "--wait", "--timeout", "2m", "--values", "-",
            stdin=json.dumps({"watchNamespaces": [namespace], **values}),
        )  # fmt: skip

    def _helm(self, *arguments, **options):
        return cluster.run("helm", "-n", self.namespace, *arguments, timeout=150, **options)

    def nats_url(self):
        """Its own NATS at its service address, which this machine reaches as a node does."""
        address = cluster.get("-n", self.namespace, "service", f"{NAME}-nats")["spec"]["clusterIP"]
        return f"nats://{address}:4222"

    def nats_user(self, user):
        """Name and password of a user of its own NATS: operator or subscriber."""
        data = cluster.get("-n", self.namespace, "secret", f"{NAME}-nats-{user}")["data"]
        return tuple(base64.b64decode(data[key]).decode() for key in ("username", "password"))

    def uninstall(self):
        """Takes it away as a user does, with the hook that lets go of what it held."""
        self._helm("uninstall", NAME, "--wait", "--timeout", "2m")


@contextlib.contextmanager
def release(namespace, values):
    """Installed; gone in the end, whatever becomes of the test."""
    try:
        yield Release(namespace, values)
    finally:
        cluster.run("helm", "-n", namespace, "uninstall", NAME, "--ignore-not-found", "--wait", timeout=150)
