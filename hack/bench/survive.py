"""Prints what an operator survives and what that costs, beside the targets: kills, take-over, memory, an outage of NATS."""

import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from datetime import datetime
from pathlib import Path

import load
from fake_kubelet import FakeNode

from harness import audit, cluster, events, installation, manifests
from harness.nats_server import HostNats
from harness.operator import HostOperator
from harness.pool_worker import PoolWorker

SEED = int(os.environ.get("COMPOZY_E2E_SEED", random.SystemRandom().randrange(1 << 32)))
# Kills: so many runs of so many tasks, killed so often each.
RUNS, TASKS, KILLS = 6, 60, 12
LEASE = 3
# Where nothing is killed a busy machine must not cost the lease.
LONG_LEASE = "15s"
TAKE_OVERS = 5
# Pools: so many tasks in runs of so many, on so many workers of so many slots. Something is killed so many seconds later.
POOL_TASKS, ITEMS = int(os.environ.get("TASKS", 20_000)), 10_000
WORKERS, SLOTS = 4, 8
PAUSE = (2, 8)
# So long the items of a run may take: what is not over by then is stuck.
PATIENCE = 1800
# A worker is frozen for so many seconds: its lease is 15 s.
FROZEN = (5, 25)
LIKELY = {"worker killed": 6, "worker frozen": 2, "operator killed": 2, "NATS killed": 1}
HANDLER = Path(__file__).with_name("pool_handler.py")
FINISHED = 2_000
PENDING = 10_000


def report(what, value, unit="", target=None, digits=1):
    verdict = "" if target is None else f"   target ≤ {target:g} {unit}   {'ok' if value <= target else 'MISSED'}"
    print(f"{what:<58} {value:9.{digits}f} {unit}{verdict}", flush=True)


class Bench:
    """What all figures need: the second node, directories, namespaces that go in the end."""

    def __init__(self, undo, node):
        self.undo = undo
        self.node = node
        self.directory = Path(undo.enter_context(tempfile.TemporaryDirectory()))

    def namespace(self, what):
        made = cluster.Namespace(f"bench-{what}-{uuid.uuid4().hex[:5]}")
        self.undo.callback(made.close)
        return made.name

    def operator(self, name):
        return self.undo.enter_context(contextlib.closing(HostOperator(self.directory / name)))

    def nats(self, name):
        return self.undo.enter_context(contextlib.closing(HostNats(self.directory / name)))

    def worker(self, *words, **options):
        return self.undo.enter_context(contextlib.closing(PoolWorker(self.directory, *words, **options)))


# -- Kills ---------------------------------------------------------------------


def kills(bench):
    """Runs whose operator is killed at random moments: what ran twice, was lost, is stuck, was told wrongly."""
    print(f"COMPOZY_E2E_SEED={SEED}")
    chance, space, requests = random.Random(SEED), bench.namespace("kills"), audit.Audit()
    nats, operator = bench.nats("nats-of-kills"), bench.operator("killed")
    bench.node.seconds = 2
    operator.start("bench-killed", **nats.flags())
    killed = 0
    for run in range(RUNS):
        load.create(space, [load.workflow(f"run-{run}", bench.node, TASKS, chain=6, parallelism=12)])
        for _ in range(KILLS):
            operator.leads()
            time.sleep(chance.uniform(0.02, 1.2))
            operator.kill()
            killed += 1
            operator.start("bench-killed", **nats.flags())
    over = load.wait_over(space, timeout=300)
    runs, executions = load.listed(space), load.listed(space, "taskexecutions")
    made = audit.pods_created(
        one for one in requests.requests() if one["objectRef"].get("namespace") == space
    )  # fmt: skip
    tasks = RUNS * TASKS
    done = Counter(phase for run in runs for phase in phases_of(run))
    print(f"    {tasks} tasks, {killed} kills, the tasks' phases: {dict(done)}{'' if over else ', NOT OVER'}")
    report("tasks run twice", sum(made.values()) - len(made) + sum(map(attempts_more, executions)), target=0, digits=0)
    report("tasks lost", tasks - done["Succeeded"], target=0, digits=0)
    report("runs stuck", sum(run["status"]["phase"] != "Succeeded" for run in runs), target=0, digits=0)
    report("events missing, repeated or out of order", wrongly_told(nats, runs, executions), target=0, digits=0)
    operator.close()


def phases_of(run):
    return [task["phase"] for task in run["status"].get("tasks", [])]


def attempts_more(execution):
    return execution["status"].get("attempt", 1) - 1


def wrongly_told(nats, runs, executions):
    """Objects whose events in the stream are not exactly those of their status."""
    wrong = 0
    with contextlib.closing(nats.subscriber()) as subscriber:
        for run in runs:
            mine = [one for one in executions if one["spec"]["workflow"]["uid"] == run["metadata"]["uid"]]
            expected = events.run_of(run, mine)
            count = sum(expected.values())
            stored = subscriber.stored(
                run["metadata"]["uid"], lambda found, count=count: len(found) >= count, timeout=60
            )  # fmt: skip
            told = {uid: [one.sequence for one in found] for uid, found in events.by_object(stored).items()}
            wrong += sum(told.get(uid) != list(range(1, last + 1)) for uid, last in expected.items())
    return wrong


# -- Pools ---------------------------------------------------------------------


class Havoc:
    """Kills and freezes what works on a pool's tasks, at random moments."""

    def __init__(self, chance, operator, nats, workers):
        self.chance, self.operator, self.nats, self.workers = chance, operator, nats, workers
        self.done = Counter()
        self.frozen = {}

    def strike(self):
        [what] = self.chance.choices(list(LIKELY), LIKELY.values())
        self.done[what] += 1
        if what == "operator killed":
            self.operator.kill()
            self.operator.start()
        elif what == "NATS killed":
            self.nats.kill()
            self.nats.start()
        else:
            self.hit(self.chance.choice(self.workers), what == "worker frozen")

    def hit(self, worker, freeze):
        if freeze:
            worker.freeze()
            self.frozen.setdefault(worker, time.monotonic() + self.chance.uniform(*FROZEN))
        else:
            self.frozen.pop(worker, None)
            worker.kill()
            worker.start()

    def thaw(self, at=float("inf")):
        for worker in [worker for worker, until in self.frozen.items() if until < at]:
            del self.frozen[worker]
            worker.thaw()


def pools(bench):
    """Tasks of a pool while its workers, the operator and NATS are killed: whether each ended well, and once."""
    print(f"COMPOZY_E2E_SEED={SEED}")
    chance, space, notes = random.Random(SEED), bench.namespace("pools"), bench.directory / "notes"
    nats, operator = bench.nats("nats-of-pools"), bench.operator("of-pools")
    # Who works hard on a busy machine must not lose the lease by that.
    operator.flags |= {**nats.flags(), "lease_duration": "6s"}
    operator.start().leads()
    made = manifests.pool("work", exec={"command": ["true"]}, replicas=0)
    cluster.kubectl("-n", space, "create", "-f", "-", stdin=json.dumps(made))
    handler = ("--stdio", "--", sys.executable, HANDLER, notes)
    workers = [
        bench.worker(space, "work", *handler, slots=SLOTS, name=f"w{number}", nats=nats) for number in range(WORKERS)
    ]
    havoc, began = Havoc(chance, operator, nats, workers), time.monotonic()
    for number in range(0, POOL_TASKS, ITEMS):
        each = {"items": list(range(min(ITEMS, POOL_TASKS - number))), "maxParallel": 200}
        work = manifests.pooled("each", "work", forEach=each, **{"with": {"sleep": 0.05}})
        load.create(space, [manifests.workflow(f"run-{number}", work, parallelism=200)])
        until = time.monotonic() + PATIENCE
        while load.is_under_way(space) and time.monotonic() < until:
            time.sleep(chance.uniform(*PAUSE))
            havoc.thaw(time.monotonic())
            havoc.strike()
    havoc.thaw()
    print(f"    {POOL_TASKS} tasks in {time.monotonic() - began:.0f} s; {dict(havoc.done)}")
    count_pool_tasks(load.listed(space), load.listed(space, "taskexecutions"), notes, nats)


def count_pool_tasks(runs, executions, notes, nats):
    reasons = {
        one["metadata"]["uid"]: [end["reason"] for end in one.get("status", {}).get("attempts", [])]
        for one in executions
    }
    noted = Counter((what, uid, attempt) for what, _, uid, attempt, _ in map(str.split, notes.open()))
    began = Counter({(uid, attempt): count for (what, uid, attempt), count in noted.items() if what == "began"})
    ended = Counter(uid for what, uid, _ in noted if what == "ended")
    print(f"    attempts: {dict(Counter(reason for all_of in reasons.values() for reason in all_of))}")
    twice = sum(count > 1 for count in ended.values())
    print(f"    tasks whose handler came to its end in two attempts, as nobody heard of the first: {twice}")
    good = sum(
        one.get("status", {}).get("phase") == "Succeeded" and reasons[one["metadata"]["uid"]].count("Completed") == 1
        for one in executions
    )
    others = sum(reason not in ("Completed", "WORKER_LOST") for all_of in reasons.values() for reason in all_of)
    for what, count in (
        ("tasks without exactly one result", POOL_TASKS - good),
        (
            "tasks that succeeded though no handler came to its end",
            sum("Completed" in of_one and uid not in ended for uid, of_one in reasons.items()),
        ),
        ("attempts that were begun twice", sum(count > 1 for count in began.values())),
        ("attempts that ended otherwise than well or with a lost worker", others),
        ("runs stuck", sum(run["status"]["phase"] != "Succeeded" for run in runs)),
        ("events missing, repeated or out of order", wrongly_told(nats, runs, executions)),
    ):
        report(what, count, target=0, digits=0)


# -- Take-over -----------------------------------------------------------------


def take_over(bench):
    """How long nobody leads after the leader is killed, and after it is asked to end."""
    operators = [bench.operator(f"one-of-two-{number}") for number in range(2)]
    for one in operators:
        one.start(lease_duration=f"{LEASE}s")
    for end, what, target in (
        (HostOperator.kill, "kill -9", LEASE + 2),
        (HostOperator.close, "SIGTERM", LEASE),
    ):
        seconds = []
        for _ in range(TAKE_OVERS):
            leader, standby = sorted(operators, key=lambda one: one.identity != until_held(operators))
            leader.leads()
            standby.ready()
            begin = time.monotonic()
            end(leader)
            while standby.metric("compozy_leader") != 1:
                assert time.monotonic() < begin + 60, standby.tail()
                time.sleep(0.02)
            seconds.append(time.monotonic() - begin)
            leader.start(lease_duration=f"{LEASE}s")
        report(f"take-over after {what}, lease {LEASE} s, longest of {TAKE_OVERS}", max(seconds), "s", target, 2)
        print(f"    median {statistics.median(seconds):.2f} s")
    for one in operators:
        one.close()


def until_held(operators):
    """The identity of the one that holds the lease."""
    until = time.monotonic() + 60
    while (holder := operators[0].holder()) not in {one.identity for one in operators}:
        assert time.monotonic() < until, f"the lease is held by {holder}"
        time.sleep(0.05)
    return holder


def rolling_update(_bench):
    """The longest time between two renewals of the lease while two replicas are replaced."""
    cluster.kubectl("-n", installation.SPACE, "scale", installation.OPERATOR, "--replicas=2")
    status = ("-n", installation.SPACE, "rollout", "status", installation.OPERATOR, "--timeout=100s")
    cluster.kubectl(*status, timeout=110)
    leases = cluster.Watch(installation.SPACE, "leases")
    try:
        cluster.kubectl("-n", installation.SPACE, "rollout", "restart", installation.OPERATOR)
        cluster.kubectl(*status, timeout=110)
        time.sleep(5)  # the last change of hands is in it
        held = [one["spec"] for _, one in leases.history if one["metadata"]["name"] == installation.LEASE]
    finally:
        leases.close()
        cluster.kubectl("-n", installation.SPACE, "scale", installation.OPERATOR, "--replicas=1")
    held = [spec for spec in held if spec.get("renewTime")]
    times = [datetime.fromisoformat(spec["renewTime"]) for spec in held]
    changes = [
        (after - before).total_seconds()
        for before, after, old, new in zip(times, times[1:], held, held[1:], strict=False)
        if old["holderIdentity"] != new["holderIdentity"]
    ]
    report("rolling update of 2 replicas, longest change of hands", max(changes, default=0), "s",
           held[-1]["leaseDurationSeconds"], 2)  # fmt: skip


# -- Memory and the mirror -----------------------------------------------------


def memory(bench):
    """Resident memory with so many finished task executions."""
    space, nats, operator = bench.namespace("memory"), bench.nats("nats-of-memory"), bench.operator("filled")
    operator.start(**nats.flags(), lease_duration=LONG_LEASE).leads()
    bench.node.seconds = 0
    report("memory, idle", resident(operator), "MB")
    began = time.monotonic()
    load.create(space, [load.workflow(f"run-{number}", bench.node, 100) for number in range(FINISHED // 100)])
    assert load.wait_over(space, 900, operator), load.phases(space)
    took = time.monotonic() - began
    assert Counter(load.phases(space)) == {"Succeeded": FINISHED // 100}, load.phases(space)
    print(f"    {FINISHED} tasks in {took:.0f} s: {FINISHED / took:.0f} a second")
    report(f"memory, {FINISHED} finished task executions, at once", resident(operator), "MB", 80)
    time.sleep(60)
    report(f"memory, {FINISHED} finished task executions, a minute later", resident(operator), "MB", 80)
    operator.close()
    operator.start(**nats.flags(), lease_duration=LONG_LEASE).leads()
    time.sleep(10)
    report(f"memory, {FINISHED} finished task executions, after a restart", resident(operator), "MB")
    operator.close()


def resident(operator):
    lines = Path(f"/proc/{operator.process.pid}/status").read_text().splitlines()
    [kilobytes] = [int(line.split()[1]) for line in lines if line.startswith("VmRSS:")]
    return kilobytes / 1024


def mirror(bench):
    """How fast the stream catches up with what happened while NATS was away."""
    space, nats, operator = bench.namespace("mirror"), bench.nats("nats-of-mirror"), bench.operator("behind")
    operator.start(**nats.flags(), lease_duration=LONG_LEASE).leads()
    nats.kill()
    bench.node.seconds = 0
    number = 0
    while (pending := operator.metric("compozy_events_pending")) < PENDING:
        # Three events a task.
        runs = min(10, int(PENDING - pending) // 300 + 1)
        load.create(space, [load.workflow(f"run-{number + more}", bench.node, 100) for more in range(runs)])
        number += runs
        assert load.wait_over(space, 900, operator), load.phases(space)
    nats.start()
    began = time.monotonic()
    while operator.metric("compozy_nats_connected") != 1:
        assert time.monotonic() < began + 60, operator.tail()
        time.sleep(0.01)
    connected = time.monotonic()
    while left := operator.metric("compozy_events_pending"):
        assert time.monotonic() < connected + 600, f"{left:.0f} events are still pending"
        time.sleep(0.05)
    took = time.monotonic() - connected
    print(f"    {pending:.0f} events pending; connected after {connected - began:.1f} s")
    report("mirror catches up", pending / took, "events/s", digits=0)
    report("mirror is whole again, after", took, "s")
    operator.close()


FIGURES = {
    "kills": (kills,),
    "pools": (pools,),
    "takeover": (take_over, rolling_update),
    "memory": (memory,),
    "mirror": (mirror,),
}


def main():
    # An ended bench leaves nothing behind either.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended"))
    unknown = set(sys.argv[1:]) - set(FIGURES)
    assert not unknown, f"unknown: {sorted(unknown)}; known: {', '.join(FIGURES)}"
    for name in sys.argv[1:] or FIGURES:
        for figure in FIGURES[name]:
            with contextlib.ExitStack() as undo:
                if figure is not rolling_update:
                    installation.scale(installation.OPERATOR, 0)
                    undo.callback(installation.scale, installation.OPERATOR, 1)
                figure(Bench(undo, undo.enter_context(FakeNode("bench-survive"))))


main()
