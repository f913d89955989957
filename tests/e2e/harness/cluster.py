"""The cluster through kubectl: objects as dictionaries, waits on conditions and on watches, each with a bound."""

import codecs
import json
import os
import subprocess
import threading
import time
from datetime import datetime


class Refused(AssertionError):
    """kubectl said no; `stderr` holds its words."""

    def __init__(self, command, stderr):
        super().__init__(f"{' '.join(command)}\n{stderr}")
        self.stderr = stderr


def run(*command, stdin=None, timeout=60):
    """A command's standard output; Refused if it fails."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise Refused(command, done.stderr + done.stdout)
    return done.stdout


def kubectl(*arguments, stdin=None, timeout=60):
    """Runs kubectl; waits of its own must be shorter than `timeout`."""
    return run("kubectl", *arguments, stdin=stdin, timeout=timeout)


def get(*arguments):
    """One object, or the items of a list."""
    found = json.loads(kubectl("get", *arguments, "-o", "json"))
    return found["items"] if found["kind"].endswith("List") else found


def exists(*arguments):
    """Whether an object is there."""
    return bool(kubectl("get", *arguments, "--ignore-not-found", "-o", "name").strip())


def nodes():
    """Those that a kubelet made. Tests make Nodes too, which come and go, and have no address."""
    return get("nodes", "-l", "kubernetes.io/hostname")


class Namespace:
    """A namespace of its own for a test, and what a test does in it."""

    def __init__(self, name):
        self.name = name
        self.watches = []
        kubectl("create", "namespace", name)
        # Pods are refused until the service account is there.
        kubectl("-n", name, "wait", "--for=create", "serviceaccount/default", "--timeout=30s")

    def kubectl(self, *arguments, **options):
        return kubectl("-n", self.name, *arguments, **options)

    def get(self, *arguments):
        return get("-n", self.name, *arguments)

    def exists(self, *arguments):
        return exists("-n", self.name, *arguments)

    def create(self, manifest):
        """Creates an object; returns it as stored, with its UID."""
        text = manifest if isinstance(manifest, str) else json.dumps(manifest)
        return json.loads(self.kubectl("create", "-f", "-", "-o", "json", stdin=text))

    def patch(self, kind, name, change, *arguments):
        self.kubectl("patch", kind, name, "--type=merge", "-p", json.dumps(change), *arguments)

    def delete(self, *arguments, timeout=60):
        """Deletes, and waits until the objects are gone."""
        self.kubectl("delete", *arguments, f"--timeout={timeout}s", timeout=timeout + 10)

    def wait(self, *arguments, timeout=60):
        self.kubectl("wait", *arguments, f"--timeout={timeout}s", timeout=timeout + 10)

    def finished(self, workflow, timeout=60):
        """The workflow once it is finished, however it ended."""
        self.wait("--for=condition=Finished", f"cw/{workflow}", timeout=timeout)
        return self.get("cw", workflow)

    def succeeded(self, workflow, timeout=60):
        """The workflow once it is finished; it must have succeeded."""
        ended = self.finished(workflow, timeout)
        assert ended["status"]["phase"] == "Succeeded", json.dumps(ended["status"], indent=2)
        return ended

    def failed(self, workflow, timeout=60):
        """The error of the workflow once it is finished; it must have failed."""
        ended = self.finished(workflow, timeout)
        assert ended["status"]["phase"] == "Failed", json.dumps(ended["status"], indent=2)
        return ended["status"]["error"]

    def executions(self, workflow):
        """The task executions of a workflow, by task; those of items as `task/index`."""
        found = self.get("te", "-l", f"compozy.dev/workflow={workflow}")
        return {key_of(execution): execution for execution in found}

    def pods(self, workflow, task=None):
        """The pods of a workflow, or of one task, in the order of their attempts."""
        selector = f"compozy.dev/workflow={workflow}" + (f",compozy.dev/task={task}" if task else "")
        return sorted(self.get("pods", "-l", selector), key=attempt_of)

    def watch(self, kind):
        """Every change of a kind from now on; ended with the namespace."""
        watch = Watch(self.name, kind)
        self.watches.append(watch)
        return watch

    def close(self):
        """Ends the watches and starts the deletion; `wait_gone` sees its end."""
        for watch in self.watches:
            watch.close()
        kubectl("delete", "namespace", self.name, "--wait=false", "--ignore-not-found")


def wait_gone(namespaces, timeout=90):
    """Waits until namespaces are gone: a finalizer that nobody takes off would keep them for ever."""
    if namespaces:
        names = [f"namespace/{name}" for name in namespaces]
        kubectl("wait", "--for=delete", *names, f"--timeout={timeout}s", timeout=timeout + 10)


def attempt_of(pod):
    return int(pod["metadata"]["labels"]["compozy.dev/attempt"])


def key_of(execution):
    """What the tests call a task execution: its task, and of an item `task/index`."""
    spec = execution["spec"]
    return f"{spec['task']}/{spec['index']}" if "index" in spec else spec["task"]


def task_of(child):
    """The task of a pod or a task execution; none of a pod that serves a tool."""
    return child["metadata"]["labels"].get("compozy.dev/task")


def _end_of(pod):
    found = [one for one in pod["status"].get("containerStatuses", []) if one["name"] == "main"]
    return found[0]["state"].get("terminated", {}) if found else {}


def exit_code_of(pod):
    """The exit code of a pod's task, none before its end. (The pod's phase follows about a second later.)"""
    return _end_of(pod).get("exitCode")


def finished_at(pod):
    """When a pod's task ended, in seconds of the epoch."""
    return datetime.fromisoformat(_end_of(pod)["finishedAt"]).timestamp()


class Watch:
    """What the API server tells about a kind in a namespace: all of it in order, and the objects as they are now."""

    def __init__(self, namespace, kind):
        self.what = f"{kind} in {namespace}"
        self.history = []  # (ADDED | MODIFIED | DELETED, object)
        self.objects = {}  # by UID
        self.changed = threading.Condition()
        self.ended = False
        self.process = subprocess.Popen(
            ["kubectl", "-n", namespace, "get", kind, "--watch", "--output-watch-events", "-o", "json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self):
        for event in _json_stream(self.process.stdout):
            with self.changed:
                self._take(event["type"], event["object"])
                self.changed.notify_all()
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _take(self, kind, found):
        self.history.append((kind, found))
        if kind == "DELETED":
            self.objects.pop(found["metadata"]["uid"], None)
        else:
            self.objects[found["metadata"]["uid"]] = found

    def until(self, question, timeout=30, what="the awaited state"):
        """The first true answer of `question(watch)`, asked again at every change."""
        until = time.monotonic() + timeout
        with self.changed:
            while not (answer := question(self)):
                assert not self.ended, f"the watch of {self.what} ended"
                assert self.changed.wait(until - time.monotonic()), (
                    f"not within {timeout} s: {what}; seen of {self.what}: {self.summary()}"
                )
            return answer

    def one(self, question, timeout=30, what="such an object"):
        """The first object for which `question(object)` is true."""
        return self.until(lambda watch: next(filter(question, watch.objects.values()), None), timeout, what)

    def seen(self):
        """Each object that ever was, as it was last seen, by UID."""
        with self.changed:
            return {found["metadata"]["uid"]: found for _, found in self.history}

    def most_at_once(self, counts):
        """The largest number of objects for which `counts` held at the same time."""
        with self.changed:
            history = list(self.history)
        now, most = set(), 0
        for kind, found in history:
            (now.add if kind != "DELETED" and counts(found) else now.discard)(found["metadata"]["uid"])
            most = max(most, len(now))
        return most

    def summary(self):
        """The objects, a line each."""
        lines = [
            f"{found['metadata']['name']}: {found.get('status', {}).get('phase')} {found.get('status', {}).get('reason', '')}"
            for found in self.objects.values()
        ]
        return "\n  ".join([f"{len(lines)} objects", *lines])

    def close(self):
        self.process.kill()
        self.process.wait()
        self.reader.join(timeout=5)


def _json_stream(pipe):
    """JSON values as they come, one after the other, without a separator."""
    decoder, parser, text = codecs.getincrementaldecoder("utf-8")(), json.JSONDecoder(), ""
    for chunk in iter(lambda: os.read(pipe.fileno(), 1 << 16), b""):
        text += decoder.decode(chunk)
        while text := text.lstrip():
            try:
                value, end = parser.raw_decode(text)
            except json.JSONDecodeError:  # the rest is still to come
                break
            yield value
            text = text[end:]
