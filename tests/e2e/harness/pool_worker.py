"""Workers of a pool as processes of this machine, so that they can be killed and frozen at any moment."""

import signal
import subprocess

from . import installation


class PoolWorker:
    """One process of the executor with a handler; `handler` are its words after the flags. `nats`, if it is not the
    installed one, is a server that asks for no credentials."""

    def __init__(self, directory, namespace, pool, *handler, slots=1, name="w1", nats=None):
        directory.mkdir(parents=True, exist_ok=True)
        self.log = directory / f"{name}.log"
        self.command = [
            installation.executor_binary(), "worker", pool, "--namespace", namespace,
            *(("--nats", nats.url) if nats else as_the_operator(directory)),
            "--slots", slots, "--worker-name", name, *handler,
        ]  # fmt: skip
        self.start()

    def start(self):
        with self.log.open("a") as log:
            self.process = subprocess.Popen([str(word) for word in self.command], stdout=log, stderr=log)

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


def as_the_operator(directory):
    """Flags for the installed NATS. Not as the pods of a pool, whom the operator lets in: who kills workers has no pods
    to show."""
    user, password = installation.secret("operator")
    (directory / "user").write_text(user)
    (directory / "password").write_text(password)
    return (
        "--nats", installation.nats_url(), "--nats-inbox-prefix", "_INBOX_operator",
        "--nats-user-file", directory / "user", "--nats-password-file", directory / "password",
    )  # fmt: skip
