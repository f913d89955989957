"""The operator as a process of this machine, with the rights of the installed one, so that it can be killed at any moment."""

import json
import os
import socket
import subprocess
import time
import urllib.request

from . import cluster, installation


class HostOperator:
    """Starts operators one after the other; only one runs at a time."""

    def __init__(self, directory):
        self.directory = directory
        self.log = directory / "operator.log"
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
        (self.directory / "kubeconfig").write_text(json.dumps(config))
        user, password = installation.secret("operator")
        (self.directory / "nats-user").write_text(user)
        (self.directory / "nats-password").write_text(password)

    def start(self):
        """Starts a new operator; `leads` waits until it works."""
        assert self.process is None, "the operator before is still there"
        self.starts += 1
        self.identity = f"e2e-{os.getpid()}-{self.starts}"
        self.port = _free_port()
        with self.log.open("a") as log:
            log.write(f"--- start {self.starts} as {self.identity}\n")
            log.flush()
            self.process = subprocess.Popen(
                [
                    installation.operator_binary(),
                    *("--namespace", installation.SPACE, "--lease-name", installation.LEASE),
                    *("--identity", self.identity, "--lease-duration", "3s"),
                    *("--http-address", f"127.0.0.1:{self.port}", "--log-format", "text"),
                    *("--nats-url", installation.nats_url()),
                    *("--nats-user-file", str(self.directory / "nats-user")),
                    *("--nats-password-file", str(self.directory / "nats-password")),
                ],
                env={"PATH": os.environ["PATH"], "KUBECONFIG": str(self.directory / "kubeconfig")},
                stdout=log,
                stderr=log,
            )
        return self

    def leads(self, timeout=30):
        """Waits until this operator holds the lease."""
        until = time.monotonic() + timeout
        while self.holder() != self.identity:
            assert self.process.poll() is None, f"the operator ended by itself: {self.tail()}"
            assert time.monotonic() < until, f"does not lead within {timeout} s: {self.tail()}"
            time.sleep(0.05)
        return self

    @staticmethod
    def holder():
        lease = cluster.get("-n", installation.SPACE, "lease", installation.LEASE)
        return lease["spec"].get("holderIdentity")

    def metrics(self):
        """The Prometheus text."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            return answer.read().decode()

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait(timeout=10)
        self.process = None

    def close(self):
        """Ends what runs, as an orderly shutdown if it still answers."""
        if self.process is None:
            return
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


def _free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]
