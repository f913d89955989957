"""What the installed operator says of itself: its metrics."""

import json
import re
import subprocess
import time
import urllib.request
from collections import Counter

SPACE = "compozy-system"
# Renewing the lease is a matter of time, not of work.
NOT_WORK = {"leases"}
SAMPLE = re.compile(r"^(?P<name>\w+)(?:\{(?P<labels>.*)\})? (?P<value>\S+)")


def kubectl(*arguments, stdin=None):
    done = subprocess.run(["kubectl", *arguments], input=stdin, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise SystemExit(f"kubectl {' '.join(arguments)}: {done.stderr}")
    return done.stdout


def get(*arguments):
    return json.loads(kubectl("get", *arguments, "-o", "json"))


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
