"""The API server and etcd of the local cluster, taken away and brought back."""

import contextlib
import json
import urllib.request

from . import cluster, installation

SCRIPT = installation.ROOT / "hack" / "cluster" / "apiserver"
ETCD = "http://127.0.0.1:2379"


@contextlib.contextmanager
def no_api_server():
    """Stopped within, and answering again afterwards."""
    cluster.run(str(SCRIPT), "stop")
    try:
        yield
    finally:
        cluster.run(str(SCRIPT), "start", timeout=100)


def compact_etcd():
    """Forgets every version but the newest of all objects; the revision."""
    revision = _ask("range", {"key": "AA=="})["header"]["revision"]
    _ask("compaction", {"revision": revision, "physical": True})
    return int(revision)


def _ask(call, question):
    request = urllib.request.Request(f"{ETCD}/v3/kv/{call}", json.dumps(question).encode())
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)
