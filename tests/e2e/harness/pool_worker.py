"""Workers of a pool as processes of this machine, so that they can be killed and frozen at any moment."""

import signal
import subprocess

from . import installation


class PoolWorker:
    """One process of the executor with a handler; `handler` are its words after the flags."""

    def __init__(self, directory, namespace, pool, *handler, slots=1, name="w1"):
        directory.mkdir(parents=True, exist_ok=True)
        user, password = installation.secret("operator")
        (directory / "user").write_text(user)
        (directory / "password").write_text(password)
        self.log = directory / f"{name}.log"
        # Not as the pods of a pool, whom the operator lets in: who kills workers has no pods to show.
        command = [
            installation.executor_binary(), "worker", pool, "--namespace", namespace,
            "--nats", installation.nats_url(), "--nats-inbox-prefix", "_INBOX_operator",
            "--nats-user-file", directory / "user", "--nats-password-file", directory / "password",
            "--slots", slots, "--worker-name", name, *handler,
        ]  # fmt: skip
        with self.log.open("a") as log:
            self.process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)

    def kill(self):
        """With -9: it tells nobody anything."""
        self._signal(signal.SIGKILL)
        self.process.wait(timeout=10)

    def freeze(self):
        self._signal(signal.SIGSTOP)

    def thaw(self):
        self._signal(signal.SIGCONT)

    def end(self):
        """Asks it to end, and waits until it has."""
        self._signal(signal.SIGTERM)
        return self.process.wait(timeout=60)

    def close(self):
        if self.process.poll() is None:
            self.thaw()
            self.kill()

    def _signal(self, number):
        self.process.send_signal(number)
