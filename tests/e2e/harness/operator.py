"""The operator as a process of this machine, with the rights of the installed one, so that it can be killed at any moment."""

import json
import os
import re
import signal
import socket
import subprocess
import time
import urllib.request
import uuid

from . import cluster, installation

# Where operators that work beside each other have their leases: those of the chart may touch only its own.
LEASES = "e2e-leases"


def allow_leases():
    """Lets operators on this machine have leases of their own."""
    account = f"{installation.SPACE}:{installation.RELEASE}-operator"
    role = ("create", "role", "leases", "--verb=get,create,update", "--resource=leases.coordination.k8s.io")
    binding = ("create", "rolebinding", "leases", "--role=leases", f"--serviceaccount={account}")
    for command in (("create", "namespace", LEASES), ("-n", LEASES, *role), ("-n", LEASES, *binding)):
        made = cluster.kubectl(*command, "--dry-run=client", "-o", "json")
        cluster.kubectl("apply", "-f", "-", stdin=made)


def forbid_leases():
    cluster.kubectl("delete", "namespace", LEASES, "--wait=false", "--ignore-not-found")


def for_one_namespace(namespace):
    """Flags of an operator that works beside others. Its lease outlives what a busy machine does to it."""
    return {"watch_namespaces": namespace, "namespace": LEASES, "lease_name": namespace, "lease_duration": "8s"}


class HostOperator:
    """Starts operators one after the other; only one runs at a time. `flags` are what each is started with."""

    def __init__(self, directory, **flags):
        directory.mkdir(exist_ok=True)
        self.directory = directory
        self.flags = {
            "namespace": installation.SPACE,
            "lease_name": installation.LEASE,
            "lease_duration": "3s",
            **flags,
        }
        self.log = directory / "operator.log"
        self.identity = None
        self.process = None
        self.starts = 0
        self._write_credentials()

    def _write_credentials(self):
        account = cluster.get("-n", installation.SPACE, installation.OPERATOR)["spec"]["template"]["spec"]
        token = cluster.kubectl(
            "-n", installation.SPACE, "create", "token", account["serviceAccountName"], "--duration=1h"
        )
        config = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
        config["users"] = [{"name": config["users"][0]["name"], "user": {"token": token.strip()}}]
        self.server = config["clusters"][0]["cluster"]["server"]
        (self.directory / "kubeconfig").write_text(json.dumps(config))
        user, password = installation.secret("operator")
        (self.directory / "nats-user").write_text(user)
        (self.directory / "nats-password").write_text(password)

    def vouching(self):
        """Flags with which it serves tools too, and vouches for their pods to the installed NATS."""
        key = self.directory / "nats-issuer.key"
        key.write_bytes(installation.issuer_key())
        return {"executor_image": installation.executor_image(), "nats_issuer_key_file": key}

    def reach_the_api_server_at(self, address):
        """Takes another way to the API server, such as one that a test can cut."""
        path = self.directory / "kubeconfig"
        path.write_text(path.read_text().replace(self.server, address))
        self.server = address

    def start(self, identity=None, **changed):
        """Starts a new operator; `leads` waits until it works. `changed` are flags by their names; None leaves one out.

        It waits for the end of the lease of one that was killed, whatever its identity.
        """
        assert self.process is None, "the operator before is still there"
        self.starts += 1
        self.identity = identity or f"e2e-{uuid.uuid4().hex[:8]}"
        self.port = free_port()
        flags = {
            "identity": self.identity,
            "http_address": f"127.0.0.1:{self.port}", "log_format": "text",
            "nats_url": installation.nats_url(),
            "nats_user_file": self.directory / "nats-user", "nats_password_file": self.directory / "nats-password",
            **self.flags,
            **changed,
        }  # fmt: skip
        with self.log.open("a") as log:
            log.write(f"--- start {self.starts} as {self.identity}\n")
            log.flush()
            self.process = subprocess.Popen(
                [
                    installation.operator_binary(),
                    *(f"--{name.replace('_', '-')}={value}" for name, value in flags.items() if value is not None),
                ],
                env={"PATH": os.environ["PATH"], "KUBECONFIG": str(self.directory / "kubeconfig")},
                stdout=log,
                stderr=log,
            )
        return self

    def leads(self, timeout=30):
        """Waits until this operator works: it says that it leads, and the lease is its own."""
        return self._until(
            lambda: self.metric("compozy_leader") == 1 and self.holder() == self.identity, "lead", timeout
        )

    def ready(self, timeout=30):
        """Waits until this operator has seen all objects, whether it leads or not."""
        return self._until(lambda: self._answer("/readyz") is not None, "get ready", timeout)

    def _until(self, is_so, what, timeout):
        until = time.monotonic() + timeout
        while not is_so():
            assert self.process.poll() is None, f"the operator ended by itself: {self.tail()}"
            assert time.monotonic() < until, f"does not {what} within {timeout} s: {self.tail()}"
            time.sleep(0.05)
        return self

    def holder(self):
        """Who holds the lease that it is after."""
        lease = cluster.get("-n", self.flags["namespace"], "lease", self.flags["lease_name"])
        return lease["spec"].get("holderIdentity")

    def metrics(self):
        """The Prometheus text, empty while nobody answers."""
        return self._answer("/metrics") or ""

    def metric(self, name):
        """The sum of a metric's samples; 0 if there are none."""
        found = re.findall(rf"^{name}(?:{{.*}})? (\S+)", self.metrics(), re.MULTILINE)
        return sum(map(float, found))

    def _answer(self, path):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.read().decode()
        except OSError:  # not yet, or not ready
            return None

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait(timeout=10)
        self.process = None

    def freeze(self):
        """Stops it where it is, as a machine does that swaps or is moved."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self):
        self.process.send_signal(signal.SIGCONT)

    def ends(self, timeout=30):
        """Waits until it has ended by itself; its exit code."""
        code = self.process.wait(timeout=timeout)
        self.process = None
        return code

    def processor_seconds(self):
        """How much processor time it has used."""
        return installation.processor_seconds(self.process.pid)

    def close(self):
        """Ends what runs, as an orderly shutdown if it still answers."""
        if self.process is None:
            return
        self.thaw()
        self.process.terminate()
        try:
            self.process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=10)
        self.process = None

    def tail(self, about=""):
        """The last lines of its log that are complaints or hold these words."""
        return installation.end_of_log(self.log.read_text(errors="replace"), about)


def free_port():
    """A port of this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
