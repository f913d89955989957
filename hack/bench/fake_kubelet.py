"""A second Node without a kubelet, whose pods run for a moment and end well without a container.

Real containers take all of a small machine, and the operator is then measured by what they leave it. These cost two
writes each, and the scheduler, the API server and the operator do all they do for real ones.
"""

import contextlib
import queue
import random
import socket
import sys
import threading
from datetime import UTC, datetime

from api import Connection, Refused

LABEL = "bench.compozy.dev/home"
CONNECTIONS = 4
# The node controller gives up on a node after 40 s.
HEARTBEAT = 10


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class FakeNode:
    """A context: the Node is there within, and takes only pods made from `pod_template`.

    Pods run for half to one and a half times `seconds`, so that runs do not march in step; with 0 they end as they start.
    """

    def __init__(self, name):
        self.name = name
        self.path = f"/api/v1/nodes/{name}"
        self.pod_template = {
            "spec": {"nodeSelector": {LABEL: name}, "tolerations": [{"key": LABEL, "value": name}]},
        }
        self.seconds = 0
        self.random = random.Random(1)
        self.work = queue.SimpleQueue()
        self.ending = threading.Event()
        self.threads = []
        self.api, self.watched = Connection(), Connection()

    def __enter__(self):
        # Left by a run that was killed.
        self.api.delete(self.path)
        with contextlib.ExitStack() as undo:
            undo.callback(self.remove)
            self.register()
            for work in (self.watch, self.beat, *[self.serve] * CONNECTIONS):
                self.threads.append(threading.Thread(target=work, daemon=True))
                self.threads[-1].start()
            undo.pop_all()
        return self

    def __exit__(self, *_):
        self.remove()

    def register(self):
        labels = {LABEL: self.name, "kubernetes.io/os": "linux"}
        # Keeps all other pods away, from the beginning.
        spec = {"taints": [{"key": LABEL, "value": self.name, "effect": "NoSchedule"}]}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": self.name, "labels": labels}, "spec": spec}
        self.api.call("POST", "/api/v1/nodes", {**node, "status": self.status()})
        # Without the taint that every new node gets beside it.
        self.api.patch(self.path, {"spec": spec})

    def status(self):
        room = {"cpu": "32", "memory": "64Gi", "pods": "500"}
        ready = {
            "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "fake",
            "lastHeartbeatTime": now(), "lastTransitionTime": now(),
        }  # fmt: skip
        return {"capacity": room, "allocatable": room, "conditions": [ready]}

    def remove(self):
        """Ends the threads, then takes away the Node and the pods that nobody would ever end."""
        self.ending.set()
        if self.watched.http.sock:
            with contextlib.suppress(OSError):
                self.watched.http.sock.shutdown(socket.SHUT_RDWR)
        for _ in range(CONNECTIONS):
            self.work.put(None)
        for thread in self.threads:
            thread.join(timeout=10)
        with contextlib.closing(Connection()) as api:
            for pod in api.call("GET", f"/api/v1/pods?fieldSelector=spec.nodeName={self.name}")["items"]:
                api.delete(pod_path(pod), gracePeriodSeconds=0)
            api.delete(self.path)

    # -- Threads ---------------------------------------------------------------

    def beat(self):
        """Keeps the node ready."""
        with contextlib.closing(Connection()) as api:
            while not self.ending.wait(HEARTBEAT):
                api.patch(f"{self.path}/status", {"status": self.status()})

    def watch(self):
        """Hands out the pods of this node as they come, and as they shall go."""
        started = set()
        while not self.ending.is_set():
            try:
                for event in self.watched.watch("/api/v1/pods", fieldSelector=f"spec.nodeName={self.name}"):
                    pod = event["object"]
                    if event["type"] not in ("ADDED", "MODIFIED"):
                        continue
                    if "deletionTimestamp" in pod["metadata"]:
                        self.work.put((self.delete, pod))
                    elif pod["metadata"]["uid"] not in started:
                        started.add(pod["metadata"]["uid"])
                        self.work.put((self.start, pod))
            except (OSError, ValueError) as error:
                if not self.ending.is_set():
                    print(f"fake kubelet: watching again after {error!r}", file=sys.stderr)
            self.watched.close()

    def serve(self):
        """Does what is to be done to pods."""
        with contextlib.closing(Connection()) as api:
            while work := self.work.get():
                act, pod = work
                try:
                    act(api, pod)
                except Refused as refused:
                    # 404: gone meanwhile.
                    if refused.status != 404:
                        print(f"fake kubelet: {refused}", file=sys.stderr)

    def start(self, api, pod):
        if not self.seconds:
            return self.finish(api, pod)
        report(api, pod, "Running", {"running": {"startedAt": now()}})
        timer = threading.Timer(self.seconds * self.random.uniform(0.5, 1.5), self.work.put, [(self.finish, pod)])
        timer.daemon = True
        timer.start()

    @staticmethod
    def finish(api, pod):
        ended = {"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now()}
        report(api, pod, "Succeeded", {"terminated": ended})

    @staticmethod
    def delete(api, pod):
        api.delete(pod_path(pod), gracePeriodSeconds=0)


def pod_path(pod):
    return f"/api/v1/namespaces/{pod['metadata']['namespace']}/pods/{pod['metadata']['name']}"


def report(api, pod, phase, state):
    """What a kubelet writes of a pod whose containers are all in this state."""
    running = phase == "Running"
    containers = [
        {
            "name": container["name"], "image": container["image"], "imageID": "", "ready": running,
            "restartCount": 0, "started": running, "state": state,
        }
        for container in pod["spec"]["containers"]
    ]  # fmt: skip
    api.patch(
        f"{pod_path(pod)}/status", {"status": {"phase": phase, "startTime": now(), "containerStatuses": containers}}
    )
