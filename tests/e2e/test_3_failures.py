"""Failures: what each looks like in status and in the events, whose fault it is, and what is tried again."""

import json

from harness.cluster import attempt_of
from harness.events import by_object, names, whole_run
from harness.manifests import HANG, HANG_ONCE, IMAGE, retry, task, workflow


def events_of(namespace, subscriber, name, task_name):
    """The events of one task in the stream, the run being complete there."""
    uid = namespace.executions(name)[task_name]["metadata"]["uid"]
    return by_object(whole_run(namespace, subscriber, name))[uid]


def test_exit_1_is_tried_three_times_and_the_error_tells_the_exit_code_and_the_logs_tail(namespace, subscriber):
    pods = namespace.watch("pods")
    script = 'echo "attempt $COMPOZY_ATTEMPT"; echo "the disk is full" >&2; exit 1'
    namespace.create(workflow("broken", task("fail", script, retry=retry(3))))
    error = namespace.failed("broken")

    assert [attempt_of(pod) for kind, pod in pods.history if kind == "ADDED"] == [1, 2, 3]
    assert len(pods.seen()) == 3
    execution = namespace.executions("broken")["fail"]
    status = execution["status"]
    assert (status["phase"], status["attempt"], status["error"]["code"]) == ("Failed", 3, "TASK_FAILED")
    assert [(record["number"], record["class"], record["exitCode"]) for record in status["attempts"]] == [
        (number, "Application", 1) for number in (1, 2, 3)
    ]
    for words in ("1", "attempt 3", "the disk is full"):
        assert words in status["error"]["message"]
    assert "fail" in error["message"]
    assert error["details"]["failed_task_id"] == "fail"
    assert error["details"]["failed_task_exec_id"] == execution["metadata"]["uid"]
    assert error["details"]["task_error"]["code"] == "TASK_FAILED"

    messages = events_of(namespace, subscriber, "broken", "fail")
    again = ["started", "failed", "retry_scheduled"]
    assert names(messages) == ["scheduled", *again, *again, "started", "failed"]
    failed = [message.payload for message in messages if message.event == "failed"]
    assert [payload["retry_policy"] for payload in failed] == [
        {"max_attempts": 3, "current_attempt": number} for number in (1, 2, 3)
    ]
    assert all(payload["error"]["code"] == "TASK_FAILED" for payload in failed)
    assert "the disk is full" in failed[-1]["error"]["message"]
    retries = [message.payload for message in messages if message.event == "retry_scheduled"]
    assert [payload["attempt_number"] for payload in retries] == [2, 3]
    assert [payload["next_attempt_delay_ms"] for payload in retries] == [100, 200]
    assert {payload["original_task_exec_id"] for payload in retries} == {execution["metadata"]["uid"]}


def test_a_task_names_its_own_error(namespace):
    own = {"error": {"message": "no such customer", "code": "NO_CUSTOMER", "details": {"id": 7}}}
    namespace.create(workflow("own", task("ask", f"echo '{json.dumps(own)}' > $COMPOZY_OUTPUTS; exit 9")))
    namespace.failed("own")
    error = namespace.executions("own")["ask"]["status"]["error"]
    assert (error["code"], error["details"]["id"]) == ("NO_CUSTOMER", 7)
    assert "no such customer" in error["message"]


def test_a_task_that_takes_too_much_memory_is_oom_killed_by_its_own_fault(namespace):
    greedy = task("eat", "exec tail /dev/zero", {"resources": {"limits": {"memory": "32Mi"}}})
    namespace.create(workflow("greedy", greedy))
    namespace.failed("greedy")
    status = namespace.executions("greedy")["eat"]["status"]
    assert status["error"]["code"] == "OOM_KILLED"
    [record] = status["attempts"]
    assert (record["class"], record["reason"]) == ("Application", "OOM_KILLED")
    assert status["failures"] == {"application": 1, "infrastructure": 0}


def running_pod(namespace, pods, task_name, attempt=1):
    """The pod of an attempt, once it runs and the operator has seen it."""
    labels = {"compozy.dev/task": task_name, "compozy.dev/attempt": str(attempt)}

    def runs(pod):
        return labels.items() <= pod["metadata"]["labels"].items() and pod["status"].get("phase") == "Running"

    pod = pods.one(runs, what=f"attempt {attempt} of {task_name} running")
    owner = pod["metadata"]["ownerReferences"][0]["name"]
    namespace.wait("--for=jsonpath={.status.phase}=Running", f"te/{owner}", timeout=15)
    return pod


def assert_survived(namespace, subscriber, name, reason):
    """The run succeeded with one infrastructure failure, known by this reason, in the events too."""
    namespace.succeeded(name)
    [status] = [execution["status"] for execution in namespace.executions(name).values()]
    assert status["failures"] == {"application": 0, "infrastructure": 1}
    first = status["attempts"][0]
    assert (first["number"], first["class"], first["reason"]) == (1, "Infrastructure", reason)
    [task_name] = namespace.executions(name)
    messages = events_of(namespace, subscriber, name, task_name)
    assert names(messages) == ["scheduled", "started", "failed", "retry_scheduled", "started", "completed"]
    failed = messages[2].payload
    assert failed["error"]["code"] == reason
    assert "Infrastructure" in json.dumps(failed["error"]["details"])


def test_a_pod_deleted_by_hand_is_replaced_on_the_infrastructure_budget(namespace, subscriber):
    pods = namespace.watch("pods")
    namespace.create(workflow("deleted", task("work", HANG_ONCE)))
    pod = running_pod(namespace, pods, "work")
    namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    assert_survived(namespace, subscriber, "deleted", "POD_DELETED")


def test_an_evicted_pod_is_replaced_on_the_infrastructure_budget(namespace, subscriber):
    pods = namespace.watch("pods")
    namespace.create(workflow("evicted", task("work", HANG_ONCE)))
    pod = running_pod(namespace, pods, "work")["metadata"]["name"]
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace.name}}
    path = f"/api/v1/namespaces/{namespace.name}/pods/{pod}/eviction"
    namespace.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))
    assert_survived(namespace, subscriber, "evicted", "EVICTED")


def test_the_two_budgets_are_counted_apart(namespace):
    # Attempt 1 fails by itself, 2 is deleted, 3 fails by itself again: two application failures of two.
    script = f'[ "$COMPOZY_ATTEMPT" != 2 ] || {{ {HANG}; }}; exit 1'
    pods = namespace.watch("pods")
    namespace.create(workflow("budgets", task("work", script, retry=retry(2), infrastructureRetries=1)))
    pod = running_pod(namespace, pods, "work", attempt=2)
    namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    namespace.failed("budgets")
    status = namespace.executions("budgets")["work"]["status"]
    assert [record["class"] for record in status["attempts"]] == ["Application", "Infrastructure", "Application"]
    assert status["failures"] == {"application": 2, "infrastructure": 1}


def test_without_an_infrastructure_budget_a_deleted_pod_fails_the_task(namespace):
    pods = namespace.watch("pods")
    namespace.create(workflow("frail", task("work", HANG_ONCE, infrastructureRetries=0, retry=retry(3))))
    pod = running_pod(namespace, pods, "work")
    namespace.kubectl("delete", "pod", pod["metadata"]["name"], "--wait=false")
    namespace.failed("frail")
    status = namespace.executions("frail")["work"]["status"]
    assert (status["error"]["code"], status["attempt"]) == ("POD_DELETED", 1)
    assert len(pods.seen()) == 1


def test_a_pod_evicted_by_its_kubelet_is_replaced(namespace, subscriber, ghost_node):
    pods = namespace.watch("pods")
    namespace.create(workflow("pressed", task("work"), podTemplate=ghost_node.selector()))

    def bound(attempt):
        return lambda pod: attempt_of(pod) == attempt and pod["spec"].get("nodeName") == ghost_node.name

    first = pods.one(bound(1), what="attempt 1 on the second node")
    ghost_node.run(first)
    running_pod(namespace, pods, "work")
    ghost_node.evict(first)
    second = pods.one(bound(2), what="attempt 2 on the second node")
    ghost_node.run(second)
    running_pod(namespace, pods, "work", attempt=2)
    ghost_node.succeed(second, {"where": "ghost"})
    assert_survived(namespace, subscriber, "pressed", "EVICTED")
    assert namespace.executions("pressed")["work"]["status"]["outputs"] == {"where": "ghost"}


def test_a_lost_node_costs_an_attempt_and_not_the_run(namespace, subscriber, ghost_node):
    pods = namespace.watch("pods")
    namespace.create(workflow("lost", task("work", "echo '{}' > $COMPOZY_OUTPUTS"), podTemplate=ghost_node.selector()))
    pod = pods.one(lambda pod: pod["spec"].get("nodeName") == ghost_node.name, what="a pod on the second node")
    ghost_node.run(pod)
    running_pod(namespace, pods, "work")
    ghost_node.vanish()
    # The pod garbage collector waits 40 s before it believes that a node is gone, and looks every 20 s.
    pods.one(lambda pod: attempt_of(pod) == 2, timeout=100, what="attempt 2")
    before = next(found for _, found in reversed(pods.history) if attempt_of(found) == 1)
    assert before["status"]["phase"] == "Failed" or before["metadata"].get("deletionTimestamp"), "one pod at a time"
    assert_survived(namespace, subscriber, "lost", "NODE_LOST")


def test_an_image_that_cannot_be_pulled_says_so_at_once_and_then_fails(namespace, subscriber):
    executions = namespace.watch("te")
    unpullable = task("pull", imagePullTimeout="8s", retry=retry(3), container={"image": "127.0.0.1:1/nope:1"})
    namespace.create(workflow("imageless", unpullable))

    def says_so(execution):
        status = execution.get("status", {})
        return status.get("phase") == "Pending" and status.get("reason") in ("ErrImagePull", "ImagePullBackOff")

    waiting = executions.one(says_so, timeout=15, what="the reason of the wait in the status")
    assert "127.0.0.1:1/nope:1" in waiting["status"]["message"]
    namespace.failed("imageless")
    status = namespace.executions("imageless")["pull"]["status"]
    assert (status["error"]["code"], status["attempt"]) == ("IMAGE_PULL", 1), "not tried again"
    assert "127.0.0.1:1/nope:1" in status["error"]["message"]
    assert names(events_of(namespace, subscriber, "imageless", "pull")) == ["scheduled", "failed"]


def test_a_hanging_task_times_out(namespace, subscriber):
    pods = namespace.watch("pods")
    namespace.create(workflow("hanging", task("hang", HANG, timeout="1s", retry=retry(2))))
    namespace.failed("hanging")
    status = namespace.executions("hanging")["hang"]["status"]
    assert (status["error"]["code"], status["attempt"]) == ("TIMEOUT", 2)
    assert [(record["class"], record["reason"]) for record in status["attempts"]] == [("Application", "TIMEOUT")] * 2
    assert names(events_of(namespace, subscriber, "hanging", "hang")) == [
        "scheduled", "started", "failed", "retry_scheduled", "started", "failed",
    ]  # fmt: skip
    assert pods.most_at_once(lambda pod: pod["status"].get("phase") == "Running") == 1, "one pod at a time"


def test_the_deadline_bounds_all_attempts_and_the_pauses_between(namespace):
    slow = retry(10, initial="30s")
    namespace.create(workflow("late", task("try", "exit 1", retry=slow, deadline="5s")))
    namespace.failed("late", timeout=25)
    assert namespace.executions("late")["try"]["status"]["error"]["code"] == "DEADLINE_EXCEEDED"


def test_bad_outputs_fail_with_their_codes(namespace):
    fill = "head -c 5000 /dev/zero | tr '\\0' x"
    scripts = {
        "too-large": f'echo "{{\\"blob\\": \\"$({fill})\\"}}" > $COMPOZY_OUTPUTS',
        "no-json": "echo hello > $COMPOZY_OUTPUTS",
        "no-object": "echo '[1, 2]' > $COMPOZY_OUTPUTS",
        "two-objects": "echo '{} {}' > $COMPOZY_OUTPUTS",
    }
    tasks = [task(name, script) for name, script in scripts.items()]
    namespace.create(workflow("outputs", *tasks, failurePolicy="Complete"))
    namespace.failed("outputs")
    errors = {name: found["status"]["error"] for name, found in namespace.executions("outputs").items()}
    assert {name: error["code"] for name, error in errors.items()} == {
        "too-large": "OUTPUTS_TOO_LARGE",
        "no-json": "INVALID_OUTPUTS",
        "no-object": "INVALID_OUTPUTS",
        "two-objects": "INVALID_OUTPUTS",
    }
    assert "4096" in errors["too-large"]["message"].replace(",", ""), "the message says the limit"


def test_an_empty_or_missing_outputs_file_is_an_empty_object(namespace):
    namespace.create(workflow("silent", task("nothing", "true"), task("noise", "echo some log; exit 0")))
    namespace.succeeded("silent")
    for execution in namespace.executions("silent").values():
        assert execution["status"]["outputs"] == {}


def test_a_program_that_is_not_there_fails_at_once(namespace):
    namespace.create(workflow("programless", {"name": "run", "container": {"image": IMAGE, "command": ["/no/such"]}}))
    namespace.failed("programless", timeout=20)
    error = namespace.executions("programless")["run"]["status"]["error"]
    assert error["code"] == "START_ERROR"
    assert "/no/such" in error["message"]


def test_a_secret_that_is_not_there_is_named_while_it_is_waited_for_and_then_fails_the_task(namespace):
    executions = namespace.watch("te")
    secret = {"name": "K", "valueFrom": {"secretKeyRef": {"name": "no-such-secret", "key": "k"}}}
    namespace.create(workflow("secretless", task("run", container={"env": [secret]}, imagePullTimeout="8s")))
    waiting = executions.one(
        lambda execution: "no-such-secret" in execution.get("status", {}).get("message", ""),
        what="the reason of the wait in the status",
    )["status"]
    assert (waiting["phase"], waiting["reason"]) == ("Pending", "CreateContainerConfigError")
    namespace.failed("secretless", timeout=30)
    error = namespace.executions("secretless")["run"]["status"]["error"]
    assert error["code"] == "START_ERROR"
    assert "no-such-secret" in error["message"]
