"""Warm pools: tasks that a worker takes which is there already, and whatever may happen to a worker."""

import time

import pytest

from harness.events import by_object, whole_run
from harness.manifests import DOUBLING_PROCESS, DOUBLING_PROGRAM, pool, pooled, retry, shell, workflow

# Notes who works on what, then takes its time.
SLOW = 'echo "$COMPOZY_TASK_EXEC_ID $COMPOZY_ATTEMPT" >>"$LOG"; sleep "$TIME"; echo "done $COMPOZY_ATTEMPT" >>"$LOG"; echo "{}"'


def waits_for(namespace, task, reason):
    """What a task execution says of why it waits, once it is for this reason."""
    executions = namespace.watch("te")
    found = executions.one(
        lambda te: te["spec"]["task"] == task and te.get("status", {}).get("reason") == reason, what=reason
    )
    return found["status"]["message"]


def begins(lines, count=1, timeout=40):
    """Waits until this file has so many lines."""
    until = time.monotonic() + timeout
    while not (lines.exists() and len(lines.read_text().splitlines()) >= count):
        assert time.monotonic() < until, f"waited in vain for line {count} of {lines}"
        time.sleep(0.05)
    return lines.read_text().splitlines()


def has_ended(execution):
    return execution.get("status", {}).get("phase") == "Succeeded"


@pytest.fixture
def slow(namespace, worker, tmp_path):
    """Workers of the pool `slow`, whose handler notes what it works on: `slow(name, seconds)`. The pool has no others."""
    namespace.create(pool("slow", exec=shell("true"), replicas=0))
    log = tmp_path / "log"

    def begin(name, seconds):
        words = SLOW.replace("$LOG", str(log)).replace("$TIME", str(seconds))
        return worker("slow", "--exec", "--", "sh", "-c", words, name=name)

    begin.log = log
    return begin


@pytest.mark.parametrize("kind, text", [("exec", DOUBLING_PROGRAM), ("stdio", DOUBLING_PROCESS)])
def test_the_workers_of_a_pool_run_its_tasks_without_pods_of_their_own(namespace, subscriber, kind, text):
    namespace.create(pool("double", **{kind: shell(text)}))
    namespace.wait("--for=condition=Ready", "executorpool/double")
    chain = [
        pooled("once", "double", **{"with": {"n": 4}}),
        pooled("twice", "double", dependsOn=["once"], **{"with": {"n": "${{ tasks.once.outputs.n }}"}}),
    ]
    namespace.create(workflow("chain", *chain, outputs={"n": "${{ tasks.twice.outputs.n }}"}))
    assert namespace.succeeded("chain")["status"]["outputs"] == {"n": 16}
    assert namespace.pods("chain") == []
    execution = namespace.executions("chain")["once"]
    assert execution["status"]["executor"].startswith("pool/double/compozy-pool-double-")
    uid = execution["metadata"]["uid"]
    messages = by_object(whole_run(namespace, subscriber, "chain"))[uid]
    assert [message.event for message in messages] == ["scheduled", "started", "completed"]
    head, row = namespace.kubectl("get", "executorpools").splitlines()
    assert head.split()[:2] == ["NAME", "READY"] and row.split()[:2] == ["double", "True"]


def test_a_task_waits_visibly_for_its_pool_and_then_for_a_worker(namespace):
    namespace.create(workflow("early", pooled("once", "double", **{"with": {"n": 4}})))
    assert "kubectl apply" in waits_for(namespace, "once", "PoolMissing")
    namespace.create(pool("double", exec=shell(DOUBLING_PROGRAM), replicas=0))
    assert "kubectl describe executorpool double" in waits_for(namespace, "once", "NoWorkers")
    namespace.patch("executorpool", "double", {"spec": {"replicas": 1}})
    namespace.succeeded("early")


def test_a_handlers_error_is_the_tasks_and_is_tried_again_as_the_task_says(namespace):
    fails = 'echo "{\\"error\\": {\\"code\\": \\"NO_MONEY\\", \\"message\\": \\"try $COMPOZY_ATTEMPT\\"}}"; exit 1'
    namespace.create(pool("fails", exec=shell(fails)))
    tasks = [pooled("pay", "fails", retry=retry(2)), pooled("late", "fails", timeout="1s")]
    namespace.create(workflow("order", *tasks, failurePolicy="Complete"))
    namespace.failed("order")
    status = namespace.executions("order")["pay"]["status"]
    assert (status["error"]["code"], status["error"]["message"]) == ("NO_MONEY", "try 2")
    assert [attempt["class"] for attempt in status["attempts"]] == ["Application"] * 2


def test_a_task_that_takes_too_long_is_ended_by_its_worker(namespace, slow):
    slow("w1", 600)
    namespace.create(workflow("long", pooled("nap", "slow", timeout="1s")))
    assert namespace.failed("long")["details"]["task_error"]["code"] == "TIMEOUT"


def test_a_killed_worker_costs_the_task_no_try_of_its_own(namespace, slow):
    first = slow("w1", 600)
    namespace.create(workflow("killed", pooled("nap", "slow")))
    begins(slow.log)
    first.kill()
    slow("w2", 0)
    namespace.succeeded("killed", timeout=90)
    [lost, good] = namespace.executions("killed")["nap"]["status"]["attempts"]
    assert (lost["class"], lost["reason"], lost["executor"]) == ("Infrastructure", "WORKER_LOST", "pool/slow/w1")
    assert (good["reason"], good["executor"]) == ("Completed", "pool/slow/w2")


def test_a_worker_that_was_frozen_past_its_lease_ends_what_it_has_lost_and_is_not_heard(namespace, slow):
    frozen = slow("w1", 20)
    namespace.create(workflow("frozen", pooled("nap", "slow")))
    [line] = begins(slow.log)
    uid = line.split()[0]
    frozen.freeze()
    slow("w2", 0)
    namespace.succeeded("frozen", timeout=90)
    frozen.thaw()
    assert frozen.end() in (0, 1)
    assert slow.log.read_text().splitlines() == [f"{uid} 1", f"{uid} 2", "done 2"]
    status = namespace.executions("frozen")["nap"]["status"]
    assert [attempt["reason"] for attempt in status["attempts"]] == ["WORKER_LOST", "Completed"]


def test_a_worker_that_is_asked_to_end_finishes_what_it_has(namespace, slow):
    first = slow("w1", 3)
    namespace.create(workflow("asked", pooled("nap", "slow"), pooled("next", "slow")))
    begins(slow.log)
    assert first.end() == 0
    slow("w2", 0)
    namespace.succeeded("asked", timeout=90)
    for execution in namespace.executions("asked").values():
        assert [attempt["reason"] for attempt in execution["status"]["attempts"]] == ["Completed"]


def test_a_cancelled_run_takes_back_what_waits_and_ends_what_a_worker_has(namespace, slow):
    slow("w1", 600)
    executions = namespace.watch("te")
    namespace.create(workflow("working", pooled("work", "slow")))
    begins(slow.log)
    namespace.create(workflow("waiting", pooled("wait", "slow")))
    executions.one(lambda te: te["spec"]["task"] == "wait")
    # In this order: a slot that becomes free takes what waits at that moment.
    for run, task in ("waiting", "wait"), ("working", "work"):
        namespace.patch("cw", run, {"spec": {"cancel": {"reason": "enough"}}})
        assert namespace.finished(run, timeout=40)["status"]["phase"] == "Cancelled"
        assert namespace.executions(run)[task]["status"]["phase"] == "Cancelled"
    namespace.create(workflow("after", pooled("nap", "slow", timeout="1s")))
    assert namespace.failed("after")["details"]["task_error"]["code"] == "TIMEOUT"
    assert len(slow.log.read_text().splitlines()) == 2, "what was taken back never began"


@pytest.mark.own_operator
@pytest.mark.timeout(240)
def test_every_item_has_one_result_over_the_death_of_workers_operator_and_nats(
    namespace, subscriber, host_operator, host_nats, worker, tmp_path
):
    host_operator.start().leads()
    namespace.create(pool("work", exec=shell("true"), replicas=0))
    log = tmp_path / "log"
    notes = f'echo "$COMPOZY_TASK_EXEC_ID $COMPOZY_ATTEMPT" >>{log}; sleep 0.1; echo "{{}}"'
    handler = ("--exec", "--", "sh", "-c", notes)
    workers = [worker("work", *handler, slots=4, name=f"w{number}", nats=host_nats) for number in range(2)]
    executions = namespace.watch("te")
    each = pooled("each", "work", forEach={"items": list(range(150)), "maxParallel": 16})
    namespace.create(workflow("many", each))
    for count, killed in (20, host_operator), (50, workers[0]), (80, host_nats), (110, host_operator), (130, workers[1]):
        executions.until(lambda seen, count=count: len(list(filter(has_ended, seen.objects.values()))) >= count)
        killed.kill()
        killed.start()
    namespace.succeeded("many", timeout=120)
    for execution in namespace.get("te"):
        reasons = [attempt["reason"] for attempt in execution["status"]["attempts"]]
        assert reasons.count("Completed") == 1 and set(reasons) <= {"Completed", "WORKER_LOST"}, execution["status"]
    begun = log.read_text().splitlines()
    assert len(begun) == len(set(begun)), "an attempt began twice"
    whole_run(namespace, subscriber, "many")


@pytest.mark.timeout(240)
def test_a_pool_that_is_rolled_out_anew_under_load_fails_no_task_and_runs_none_twice_to_its_end(namespace):
    says = shell('sleep 0.2; echo "{\\"version\\": \\"$VERSION\\"}"')
    container = {"env": [{"name": "VERSION", "value": "one"}]}
    namespace.create(pool("greet", container, exec=says, slots=4, replicas=2))
    namespace.wait("--for=condition=Ready", "executorpool/greet")
    executions = namespace.watch("te")
    each = pooled("ask", "greet", forEach={"items": list(range(150)), "maxParallel": 16})
    namespace.create(workflow("spanning", each, outputs={"all": "${{ tasks.ask.outputs }}"}))
    executions.one(lambda te: te.get("status", {}).get("phase") == "Succeeded", what="a task that ended")
    container = {"image": "busybox:1.36", "env": [{"name": "VERSION", "value": "two"}]}
    namespace.patch("executorpool", "greet", {"spec": {"container": container}})
    outputs = namespace.succeeded("spanning", timeout=150)["status"]["outputs"]["all"]
    assert {one["version"] for one in outputs} == {"one", "two"} and len(outputs) == 150
    for te in namespace.get("te"):
        reasons = [attempt["reason"] for attempt in te["status"]["attempts"]]
        assert reasons.count("Completed") == 1 and set(reasons) <= {"Completed", "WORKER_LOST"}, te["status"]
