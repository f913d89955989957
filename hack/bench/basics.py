"""Prints the basic figures of an installed operator beside their targets: API writes, step gap, start, memory, image."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from api import Connection
from fake_kubelet import FakeNode
from latency import Latency
from samples import SPACE, buckets, get, kubectl, quantile, scrape, settled_writes

NAMESPACE = "bench-basics"

# -- Runs ----------------------------------------------------------------------


def workflow(name, tasks, chain, node=None):
    """So many tasks that do nothing, one after the other or all at once."""
    container = {"image": "busybox:1.36", "command": ["true"]}
    names = [f"t{number}" for number in range(tasks)]
    after = {task: [names[number - 1]] if chain and number else [] for number, task in enumerate(names)}
    spec = {"tasks": [{"name": task, "container": container, "dependsOn": after[task]} for task in names]}
    if node:
        spec["podTemplate"] = node.pod_template
    return {
        "apiVersion": "compozy.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": spec,
    }


def run(*manifests):
    """Creates workflows and waits until all are finished."""
    kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))
    # kubectl would wait for one after the other, and see the end of twenty seconds late.
    until(lambda api: all(map(succeeded, listed(api, "workflows"))), "the end of all runs")


def clean():
    """Removes all runs with what they left: the next figure is not to pay for that."""
    kubectl("-n", NAMESPACE, "delete", "cw", "--all", "--wait=false")
    kinds = ("workflows", "taskexecutions", "pods")
    until(lambda api: not any(listed(api, kind) for kind in kinds), "runs, task executions and pods to be gone")


def until(is_so, what):
    deadline = time.monotonic() + 600
    with contextlib.closing(Connection()) as api:
        while not is_so(api):
            assert time.monotonic() < deadline, f"waited in vain for {what}"
            time.sleep(0.2)


def listed(api, kind):
    base = "/api/v1" if kind == "pods" else "/apis/compozy.dev/v1alpha1"
    return api.call("GET", f"{base}/namespaces/{NAMESPACE}/{kind}")["items"]


def succeeded(run):
    phase = run.get("status", {}).get("phase")
    assert phase not in ("Failed", "Cancelled"), f"{run['metadata']['name']} ended as {phase}"
    return phase == "Succeeded"


# -- Figures -------------------------------------------------------------------


def report(what, value, unit, target):
    verdict = "" if target is None else f"   target ≤ {target:g} {unit}   {'ok' if value <= target else 'MISSED'}"
    print(f"{what:<48} {value:9.1f} {unit}{verdict}", flush=True)


def write_budget(name, tasks, target, node=None):
    start = settled_writes()
    run(workflow(name, tasks, chain=False, node=node))
    done = settled_writes()
    clean()
    cleaned = settled_writes()
    spent = done - start
    if tasks == 1:
        report("API writes, run of one short task", spent.total(), "", target)
    else:
        where = ", second node" if node else ""
        report(f"API writes for each task, run of {tasks}{where}", spent.total() / tasks, "", target)
    for (resource, verb), count in sorted(spent.items()):
        print(f"    {count:5} {verb:7} {resource}")
    print(f"    and clean-up: {(cleaned - done).total()}")


def step_gap(what, runs, length, targets=(None, None), node=None):
    before = buckets(scrape(), "compozy_step_gap_seconds")
    idle, total = ticks()
    with Latency(NAMESPACE) as latency:
        run(*(workflow(f"chain-{number}", length, chain=True, node=node) for number in range(runs)))
    idle, total = (now - start for now, start in zip(ticks(), (idle, total), strict=True))
    after = buckets(scrape(), "compozy_step_gap_seconds")
    clean()
    counts = {bound: count - before.get(bound, 0) for bound, count in after.items()}
    for share, target in zip((0.50, 0.99), targets, strict=True):
        report(f"{what}, p{share * 100:.0f}", quantile(counts, share) * 1000, "ms", target)
    print(f"    {runs} chains of {length} steps, {int(max(counts.values()))} gaps; machine {1 - idle / total:.0%} busy")
    report_latency("meanwhile", latency)


def ticks():
    """Of all processors since the start of the machine: idle, all."""
    user, nice, system, idle, iowait, *rest = map(int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9])
    return idle + iowait, user + nice + system + idle + iowait + sum(rest)


def report_latency(when, latency):
    """The API server's time for one write. A gap has three, one after the other."""
    p50, p90 = (latency.quantile(share) * 1000 for share in (0.50, 0.90))
    print(f"    API server {when}: creating a pod p50 {p50:.1f} ms, p90 {p90:.1f} ms, {len(latency.seconds)} times")


def step_gaps(node):
    with Latency(NAMESPACE) as latency:
        time.sleep(5)
    report_latency("idle", latency)
    # The load of real steps of a second, without their containers.
    node.seconds = 1
    step_gap("step gap, 20 runs at once", 20, 10, (30, 150), node)
    # Steps that take no time ask for all that the machine can do: how long a gap is then, is a matter of its speed.
    node.seconds = 0
    step_gap("step gap, 20 runs flat out", 20, 10, node=node)
    step_gap("step gap with real pods", 4, 5)


def start_to_ready():
    """A second operator, as a process of this machine: it gets ready, and never leads."""
    target = os.environ["CARGO_TARGET_DIR"]
    binary = next(Path(target).glob("*-unknown-linux-gnu/release/operator"))
    arguments = ["--namespace", SPACE, "--identity", "bench", "--http-address", "127.0.0.1:18099"]
    started = time.monotonic()
    process = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not answers("http://127.0.0.1:18099/readyz"):
            assert process.poll() is None and time.monotonic() - started < 30, "the second operator is not ready"
            time.sleep(0.01)
        report("start to ready", time.monotonic() - started, "s", 2)
    finally:
        process.terminate()
        process.wait(timeout=20)


def answers(url):
    try:
        with urllib.request.urlopen(url, timeout=1):
            return True
    except OSError:
        return False


def memory_idle():
    """Resident memory of the installed operator, found by its container's cgroup."""
    selector = "app.kubernetes.io/component=operator,app.kubernetes.io/instance=compozy"
    pod = get("-n", SPACE, "pods", "-l", selector)["items"][0]
    container = pod["status"]["containerStatuses"][0]["containerID"].removeprefix("containerd://")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if container in (process / "cgroup").read_text():
                kilobytes = re.search(r"VmRSS:\s+(\d+)", (process / "status").read_text())[1]
                return report("memory, idle", int(kilobytes) / 1024, "MB", 30)
        except OSError:
            continue  # ended meanwhile
    raise SystemExit("no process of the installed operator on this machine")


def main():
    # An ended bench leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    image = Path(os.environ["COMPOZY_CACHE"]) / "images" / "operator.tar"
    report("operator image", image.stat().st_size / 1e6, "MB", 30)
    start_to_ready()
    memory_idle()
    with FakeNode("bench-basics") as node:
        # Left by a bench that was killed.
        kubectl("delete", "namespace", NAMESPACE, "--ignore-not-found", "--timeout=120s")
        kubectl("create", "namespace", NAMESPACE)
        try:
            # Pods are refused until the service account is there.
            kubectl("-n", NAMESPACE, "wait", "--for=create", "serviceaccount/default", "--timeout=30s")
            write_budget("one", 1, 9)
            write_budget("twenty", 20, 6)
            write_budget("twenty", 20, 6, node)
            step_gaps(node)
        finally:
            kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")


main()
