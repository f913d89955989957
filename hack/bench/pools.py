"""Prints what a step on a warm pool costs: the time between two steps, tasks a second, API writes a task, and how much of
what the API server can do that is, measured in the same run."""

import contextlib
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

from api import Connection
from samples import get, kubectl, scrape, settled_writes

from harness import installation
from harness.manifests import pool, pooled, workflow
from harness.pool_worker import PoolWorker

NAMESPACE = "bench-pools"
TASKS = int(os.environ.get("TASKS", 10_000))
CHAIN, CHAINS = 40, 10
AT_ONCE = 200
SLEEP = 0.1
SLOTS = (2, 8, 32, 64)
HANDLER = Path(__file__).with_name("pool_handler.py")
# How long the API server's own speed is measured, and by how many.
RAW_SECONDS, RAW_CLIENTS = 8, 8


def run(made, timeout=1200):
    """Creates a run and waits for its end; how long that took."""
    name, began = made["metadata"]["name"], time.monotonic()
    kubectl("-n", NAMESPACE, "create", "-f", "-", stdin=json.dumps(made))
    kubectl("-n", NAMESPACE, "wait", "--for=condition=Finished", f"cw/{name}", f"--timeout={timeout}s")
    took = time.monotonic() - began
    status = get("-n", NAMESPACE, "cw", name)["status"]
    assert status["phase"] == "Succeeded", status.get("message")
    return took


@contextlib.contextmanager
def workers(directory, name, count, slots, notes=None):
    """So many processes that take what the pool has, once a task of theirs has run: then they are warm."""
    kubectl("-n", NAMESPACE, "create", "-f", "-", stdin=json.dumps(pool(name, exec={"command": ["true"]}, replicas=0)))
    handler = ("--stdio", "--", sys.executable, HANDLER, *([notes] if notes else []))
    with contextlib.ExitStack() as stack:
        made = [
            PoolWorker(directory, NAMESPACE, name, *handler, slots=slots, name=f"{name}-{number}")
            for number in range(count)
        ]
        for one in made:
            stack.callback(one.close)
        run(workflow(f"warm-{name}", pooled("warm", name, forEach={"items": list(range(4 * count))})))
        yield made


def quantile(values, share):
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def steps(directory):
    """The time from a handler's answer to the call of the next one, in chains one after the other."""
    notes = directory / "notes"
    with workers(directory, "chain", 1, 1, notes):
        chain = [
            pooled(
                f"t{number}", "chain", **{"with": {"fibo": 10}}, **({"dependsOn": [f"t{number - 1}"]} if number else {})
            )
            for number in range(CHAIN)
        ]
        gaps = []
        for number in range(CHAINS):
            notes.write_text("")
            run(workflow(f"chain-{number}", *chain))
            times = {(what, task): float(at) for what, task, _, _, at in map(str.split, notes.open())}
            gaps += [times["began", f"t{place + 1}"] - times["ended", f"t{place}"] for place in range(CHAIN - 1)]
    print(
        f"step after step      {len(gaps)} gaps: p50 {quantile(gaps, 0.5) * 1000:.1f} ms (target 15), "
        f"p90 {quantile(gaps, 0.9) * 1000:.1f} ms, p99 {quantile(gaps, 0.99) * 1000:.1f} ms (target 50)",
        flush=True,
    )


def write_for(seconds, number):
    """How many writes one client gets done: it creates and changes objects as small as a task execution."""
    path = f"/apis/compozy.dev/v1alpha1/namespaces/{NAMESPACE}/tools"
    done, until = 0, time.monotonic() + seconds
    with contextlib.closing(Connection()) as api:
        while time.monotonic() < until:
            name = f"raw-{number}-{done}"
            made = {
                "apiVersion": "compozy.dev/v1alpha1", "kind": "Tool", "metadata": {"name": name},
                "spec": {"external": True, "description": "x" * 900},
            }  # fmt: skip
            api.call("POST", path, made)
            api.patch(f"{path}/{name}", {"metadata": {"annotations": {"a": "b"}}})
            api.delete(f"{path}/{name}")
            done += 3
    return done


def raw_writes():
    """Writes a second that the API server does for several clients at once, while the operator has nothing to do."""
    with multiprocessing.get_context("spawn").Pool(RAW_CLIENTS) as clients:
        done = clients.starmap(write_for, [(RAW_SECONDS, number) for number in range(RAW_CLIENTS)])
    return sum(done) / RAW_SECONDS


def no_ops(directory):
    """Many tasks that do nothing, as items of one task."""
    with workers(directory, "many", 2, 32):
        raw = raw_writes()
        before = settled_writes()
        each = pooled("each", "many", forEach={"items": list(range(TASKS)), "maxParallel": AT_ONCE})
        took = run(workflow("many", each, parallelism=AT_ONCE))
        spent = settled_writes() - before
    writes = spent.total() / TASKS
    print(
        f"{TASKS} no-ops        {took:.1f} s: {TASKS / took:.0f} tasks/s, {writes:.2f} API writes a task (target 4); "
        f"{TASKS / took * writes:.0f} of {raw:.0f} writes/s that the API server does for {RAW_CLIENTS} clients: "
        f"{TASKS / took * writes / raw:.0%} (target 70 %)",
        flush=True,
    )
    for (resource, verb), count in sorted(spent.items()):
        print(f"    {count:7} {verb:7} {resource}")


def efficiency(directory):
    """Tasks that only wait: how much of the time their slots were used."""
    for slots in SLOTS:
        name, tasks = f"sleep-{slots}", slots * 50
        with workers(directory, name, 1, slots):
            each = pooled("each", name, forEach={"items": list(range(tasks))}, **{"with": {"sleep": SLEEP}})
            took = run(workflow(f"run-{name}", each, parallelism=min(4 * slots, 500)))
        print(
            f"{slots:>3} slots            {tasks} tasks of {SLEEP} s: {tasks * SLEEP / slots / took:.0%} used (target 90 %)",
            flush=True,
        )


def memory():
    used = next(value for (name, _), value in scrape().items() if name == "compozy_resident_memory_bytes")
    print(f"memory               operator {used / 1e6:.1f} MB", flush=True)


def main():
    # An ended bench leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    kubectl("create", "namespace", NAMESPACE)
    try:
        with tempfile.TemporaryDirectory() as made:
            directory = Path(made)
            print(f"operator process {installation.operator_process()}", flush=True)
            steps(directory)
            no_ops(directory)
            efficiency(directory)
            memory()
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--wait=false")


if __name__ == "__main__":
    main()
