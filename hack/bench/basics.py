"""Prints the basic figures of an installed operator beside their targets: API writes, step gap, start, memory, image."""

import json
import os
import re
import subprocess
import time
import urllib.request
from collections import Counter
from pathlib import Path

SPACE = "compozy-system"
NAMESPACE = "bench-basics"
# Renewing the lease is a matter of time, not of work.
NOT_WORK = {"leases"}


def kubectl(*arguments, stdin=None):
    done = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def get(*arguments):
    return json.loads(kubectl("get", *arguments, "-o", "json"))


# -- What the operator says of itself ------------------------------------------

SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")


def scrape():
    """All samples: (name, labels) to value."""
    service = get("-n", SPACE, "service", "compozy-operator")
    with urllib.request.urlopen(f"http://{service['spec']['clusterIP']}:8080/metrics", timeout=5) as answer:
        found = map(SAMPLE.match, answer.read().decode().splitlines())
    return {(m["name"], m["labels"] or ""): float(m["value"]) for m in found if m}


def label(labels, name):
    return re.search(rf'{name}="([^"]*)"', labels)[1]


def writes(samples):
    """API writes so far by (resource, verb)."""
    # One sample for each HTTP status: refused writes are writes too.
    found = Counter()
    for (name, labels), value in samples.items():
        if name == "compozy_api_writes_total" and label(labels, "resource") not in NOT_WORK:
            found[label(labels, "resource"), label(labels, "verb")] += int(value)
    return found


def settled_writes():
    """API writes once none was added for three seconds."""
    before, since = writes(scrape()), time.monotonic()
    while time.monotonic() - since < 3:
        time.sleep(0.3)
        now = writes(scrape())
        if now != before:
            before, since = now, time.monotonic()
    return before


def buckets(samples, histogram):
    """Cumulative counts by upper bound."""
    found = {label(labels, "le"): value for (name, labels), value in samples.items() if name == f"{histogram}_bucket"}
    return {float(bound): count for bound, count in found.items()}


def quantile(counts, share):
    """Interpolated in its bucket, as Prometheus does."""
    bounds = sorted(counts)
    wanted = share * counts[bounds[-1]]
    lower, below = 0.0, 0.0
    for bound in bounds:
        if counts[bound] >= wanted:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (wanted - below) / max(counts[bound] - below, 1)
        lower, below = bound, counts[bound]
    return lower


# -- Runs ----------------------------------------------------------------------


def workflow(name, tasks, chain):
    """So many tasks that do nothing, one after the other or all at once."""
    container = {"image": "busybox:1.36", "command": ["true"]}
    names = [f"t{number}" for number in range(tasks)]
    after = {task: [names[number - 1]] if chain and number else [] for number, task in enumerate(names)}
    return {
        "apiVersion": "compozy.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"tasks": [{"name": task, "container": container, "dependsOn": after[task]} for task in names]},
    }


def run(*manifests):
    """Creates workflows and waits until all are finished."""
    kubectl("create", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))
    kubectl("-n", NAMESPACE, "wait", "--for=condition=Finished", "cw", "--all", "--timeout=800s")
    unfinished = [run["metadata"]["name"] for run in get("-n", NAMESPACE, "cw")["items"] if not succeeded(run)]
    assert not unfinished, f"did not succeed: {unfinished}"


def succeeded(run):
    return run["status"]["phase"] == "Succeeded"


def clean():
    kubectl("-n", NAMESPACE, "delete", "cw", "--all", "--timeout=300s")


# -- Figures -------------------------------------------------------------------


def report(what, value, unit, target):
    verdict = "" if target is None else f"   target ≤ {target:g} {unit}   {'ok' if value <= target else 'MISSED'}"
    print(f"{what:<48} {value:9.1f} {unit}{verdict}", flush=True)


def write_budget():
    for name, tasks, target in (("one", 1, 9), ("twenty", 20, 6)):
        start = settled_writes()
        run(workflow(name, tasks, chain=False))
        done = settled_writes()
        clean()
        cleaned = settled_writes()
        spent = done - start
        if tasks == 1:
            report("API writes, run of one short task", spent.total(), "", target)
        else:
            report(f"API writes for each task, run of {tasks}", spent.total() / tasks, "", target)
        for (resource, verb), count in sorted(spent.items()):
            print(f"    {count:5} {verb:7} {resource}")
        print(f"    and clean-up: {(cleaned - done).total()}")


def step_gap(runs=20, length=5):
    before = buckets(scrape(), "compozy_step_gap_seconds")
    run(*(workflow(f"chain-{number}", length, chain=True) for number in range(runs)))
    after = buckets(scrape(), "compozy_step_gap_seconds")
    clean()
    counts = {bound: count - before.get(bound, 0) for bound, count in after.items()}
    what = f"step gap, {runs} runs at once, {int(max(counts.values()))} steps"
    report(f"{what}, p50", quantile(counts, 0.50) * 1000, "ms", 30)
    report(f"{what}, p99", quantile(counts, 0.99) * 1000, "ms", 150)


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
    image = Path(os.environ["COMPOZY_CACHE"]) / "images" / "operator.tar"
    report("operator image", image.stat().st_size / 1e6, "MB", 30)
    start_to_ready()
    memory_idle()
    kubectl("create", "namespace", NAMESPACE)
    try:
        write_budget()
        step_gap()
    finally:
        kubectl("delete", "namespace", NAMESPACE, "--timeout=120s")


main()
