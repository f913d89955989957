"""Operators that die, sleep or are replaced in the middle of a run: nothing runs twice, nothing is told twice."""

import os
import random
import time
from collections import Counter

import pytest

from harness import audit
from harness.cluster import attempt_of, task_of
from harness.events import by_object, names, whole_run
from harness.manifests import task, workflow

pytestmark = pytest.mark.own_operator

SEED = int(os.environ.get("COMPOZY_E2E_SEED", random.SystemRandom().randrange(1 << 32)))
KILLS, CHAINS, STEPS = 20, 10, 6


def chains(count, steps, first=None, last=None, **fields):
    """So many chains of tasks; the pods of the first steps are real unless `first` says otherwise."""
    tasks = []
    for chain in range(count):
        for step in range(steps):
            more = {"dependsOn": [f"t-{chain}-{step - 1}"], **fields} if step else (first or {})
            if last and (chain, step) == (0, steps - 1):
                more = {**more, **last}
            script = f"sleep 1; echo '{{\"n\": {chain}}}' > $COMPOZY_OUTPUTS" if step == 0 else "true"
            tasks.append(task(f"t-{chain}-{step}", script, **more))
    return tasks


def assert_each_ran_once(pods, tasks):
    attempts = Counter((task_of(pod), attempt_of(pod)) for pod in pods.seen().values())
    assert attempts == Counter({(one["name"], 1): 1 for one in tasks}), "one pod for each attempt, one attempt a task"


def assert_told_once(namespace, subscriber, name, tasks):
    objects = by_object(whole_run(namespace, subscriber, name, timeout=60))
    assert names(objects.pop(namespace.get("cw", name)["metadata"]["uid"])) == ["started", "completed"]
    assert len(objects) == len(tasks)
    for messages in objects.values():
        assert names(messages) == ["scheduled", "started", "completed"]


@pytest.mark.timeout(240)
def test_killed_at_twenty_random_moments_of_sixty_tasks(namespace, subscriber, host_operator, fake_node, closed_gate):
    print(f"COMPOZY_E2E_SEED={SEED}")
    chance = random.Random(SEED)
    moments = [chance.uniform(0.02, 1.5) for _ in range(KILLS)]
    print("killed so long after taking the lead:", ", ".join(f"{moment:.2f} s" for moment in moments))

    # The first of each chain is a real pod. The last of one waits for the last kill: work is left at every moment.
    fake_node.seconds = 4
    tasks = chains(
        CHAINS, STEPS, podTemplate=fake_node.pod_template, last={"podTemplate": closed_gate.pod_template()}
    )  # fmt: skip
    outputs = {f"c{chain}": f'${{{{ tasks["t-{chain}-0"].outputs.n }}}}' for chain in range(CHAINS)}
    pods = namespace.watch("pods")
    # Each waits for the end of a dead one's lease.
    host_operator.start(lease_duration="4s").leads()
    namespace.create(workflow("survivor", *tasks, parallelism=6, outputs=outputs))
    for moment in moments:
        host_operator.leads()
        time.sleep(moment)  # the moment of the crash is what is random here
        host_operator.kill()
        host_operator.start(lease_duration="4s")
    phase = namespace.get("cw", "survivor")["status"]["phase"]
    assert phase == "Running", "the run was under way at every kill"
    closed_gate.open()

    ended = namespace.succeeded("survivor", timeout=120)
    assert ended["status"]["outputs"] == {f"c{chain}": chain for chain in range(CHAINS)}
    assert_each_ran_once(pods, tasks)
    assert_told_once(namespace, subscriber, "survivor", tasks)


def under_way(namespace, pods, name, tasks):
    """Starts a run and waits until half of its pods were made."""
    namespace.create(workflow(name, *tasks, parallelism=6))
    pods.until(lambda seen: len(seen.objects) >= len(tasks) // 2, what="half of the pods", timeout=60)


def test_a_standby_takes_over_from_a_leader_that_is_killed(
    namespace, subscriber, host_operator, standby, fake_node, requests
):
    fake_node.seconds = 1
    tasks = chains(6, 4, first={"podTemplate": fake_node.pod_template}, podTemplate=fake_node.pod_template)
    pods = namespace.watch("pods")
    host_operator.start().leads()
    standby.start().ready()
    under_way(namespace, pods, "handed-on", tasks)
    assert host_operator.holder() == host_operator.identity
    host_operator.kill()
    standby.leads()

    namespace.succeeded("handed-on", timeout=60)
    assert_each_ran_once(pods, tasks)
    assert_told_once(namespace, subscriber, "handed-on", tasks)
    made = {operator: audit.pods_created([one for one in requests.requests() if audit.of(one, operator)])
            for operator in (host_operator, standby)}  # fmt: skip
    assert all(made.values()), "each of them made pods of this run"
    assert not made[host_operator] & made[standby]


def test_a_leader_that_slept_past_its_lease_writes_nothing_when_it_wakes(
    namespace, subscriber, host_operator, standby, fake_node, requests
):
    fake_node.seconds = 1
    tasks = chains(6, 4, first={"podTemplate": fake_node.pod_template}, podTemplate=fake_node.pod_template)
    pods = namespace.watch("pods")
    host_operator.start().leads()
    standby.start().ready()
    under_way(namespace, pods, "slept", tasks)
    host_operator.freeze()
    standby.leads()
    before = [one for one in requests.requests() if audit.of(one, host_operator)]
    host_operator.thaw()
    assert host_operator.ends() != 0, "it says why it ended"

    namespace.succeeded("slept", timeout=60)
    after = [one for one in requests.requests() if audit.of(one, host_operator)][len(before) :]
    assert not list(filter(audit.is_work, after)), audit.counted(after)
    assert_each_ran_once(pods, tasks)
    assert_told_once(namespace, subscriber, "slept", tasks)
