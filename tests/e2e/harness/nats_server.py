"""A NATS server as a process of this machine, whose store can be lost, small or away."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

from . import events
from .operator import free_port


class HostNats:
    """Starts at once, with room for the events and for pools; the operator reaches it at `url`, without credentials unless `demands` says otherwise."""

    def __init__(self, directory, store="4GB", address="127.0.0.1", demands=""):
        self.directory = directory
        self.address, self.port = address, free_port()
        self.url = f"nats://{self.address}:{self.port}"
        self.process = None
        directory.mkdir()
        (directory / "nats.conf").write_text(
            f"""
            listen: "{self.address}:{self.port}"
            jetstream {{ store_dir: {json.dumps(str(directory / "store"))}, max_file_store: {store} }}
            {demands}
            """
        )
        self.start()

    def flags(self):
        """What an operator must be started with to use it."""
        return {"nats_url": self.url, "nats_user_file": None, "nats_password_file": None}

    def start(self):
        cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "compozy-operator"
        binary = Path(os.environ.get("COMPOZY_CACHE", cache)) / "bin" / "nats-server"
        with (self.directory / "nats.log").open("a") as log:
            self.process = subprocess.Popen(
                [str(binary), "--config", str(self.directory / "nats.conf")], stdout=log, stderr=log
            )
        until = time.monotonic() + 20
        while not self._answers():
            assert self.process.poll() is None and time.monotonic() < until, self.log()
            time.sleep(0.05)

    def _answers(self):
        with contextlib.suppress(OSError), socket.create_connection((self.address, self.port), timeout=1):
            return True
        return False

    def kill(self):
        """kill -9."""
        self.process.kill()
        self.process.wait(timeout=10)

    def lose_everything(self):
        """What a machine does whose disk is gone; to be started anew."""
        self.kill()
        shutil.rmtree(self.directory / "store")

    def subscriber(self):
        return events.Subscriber(self.url, "subscriber", "none is asked for")

    def log(self):
        return (self.directory / "nats.log").read_text(errors="replace")[-2000:]

    def close(self):
        if self.process.poll() is None:
            self.kill()
