"""What the operator asked of the API server, as the API server wrote it down: its audit log."""

import base64
import json
import os
from collections import Counter
from pathlib import Path

from . import installation

MARK = "authentication.kubernetes.io/credential-id"


class Audit:
    """The requests of the operator's service account since the creation of this object, in one namespace or all."""

    def __init__(self, namespace=None):
        self.namespace = namespace
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "compozy-operator"
        self.path = Path(os.environ.get("COMPOZY_CACHE", cache)) / "cluster" / "log" / "audit.log"
        assert self.path.exists(), f"the cluster keeps no audit log at {self.path}: make cluster-up"
        self.start = self.path.stat().st_size

    def requests(self):
        """All requests in order; the probes of an installed operator's own health are not among them."""
        user = f"system:serviceaccount:{installation.SPACE}:{installation.RELEASE}-operator"
        with self.path.open("rb") as log:
            log.seek(self.start)
            lines = log.read().split(b"\n")[:-1]  # the last may be under way
        found = [one for one in map(json.loads, lines) if one["user"]["username"] == user and "objectRef" in one]
        return [one for one in found if self.namespace in (None, one["objectRef"].get("namespace"))]


def what(request):
    """Verb and resource, as a rule of a role has them."""
    where = request["objectRef"]
    resource = "/".join(filter(None, (where["resource"], where.get("subresource"))))
    return where.get("apiGroup", ""), resource, request["verb"]


def counted(requests):
    """How often each was asked for, for a person."""
    return Counter(" ".join(reversed(what(request))).strip() for request in requests)


def is_work(request):
    """Whether it is a write, renewals of the lease apart."""
    return request["verb"] not in ("get", "list", "watch") and request["objectRef"]["resource"] != "leases"


def of(request, operator):
    """Whether an operator on this machine asked: each has a token of its own."""
    mark = request["user"].get("extra", {}).get(MARK, [])
    return mark == [f"JTI={_token_id(operator)}"]


def answer(request):
    """The HTTP status; none for one whose connection broke."""
    return request.get("responseStatus", {}).get("code")


def _token_id(operator):
    config = json.loads((operator.directory / "kubeconfig").read_text())
    claims = config["users"][0]["user"]["token"].split(".")[1]
    return json.loads(base64.urlsafe_b64decode(claims + "==="))["jti"]


def pods_created(requests):
    """How often a pod of each name was created in truth."""
    return Counter(
        request["objectRef"]["name"]
        for request in requests
        if what(request) == ("", "pods", "create") and answer(request) == 201
    )
