"""How long the API server takes for a write of anybody's, to tell the machine's share of a figure."""

import contextlib
import threading
import time

from api import Connection

PAUSE = 0.1


class Latency:
    """Creates and deletes a pod again and again while the context lasts, and keeps the times of the create calls."""

    def __init__(self, namespace):
        self.pods = f"/api/v1/namespaces/{namespace}/pods"
        self.seconds = []
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.probe, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.ending.set()
        self.thread.join(timeout=10)

    def probe(self):
        # Its gate keeps the scheduler and every kubelet out of it.
        spec = {
            "containers": [{"name": "main", "image": "none"}],
            "schedulingGates": [{"name": "bench.compozy.dev/never"}],
        }
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": spec}
        with contextlib.closing(Connection()) as api:
            api.call("GET", self.pods)
            while not self.ending.wait(PAUSE):
                started = time.perf_counter()
                api.call("POST", self.pods, pod)
                self.seconds.append(time.perf_counter() - started)
                api.delete(f"{self.pods}/probe")

    def quantile(self, share):
        return sorted(self.seconds)[int(share * len(self.seconds))]
