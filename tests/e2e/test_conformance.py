"""The cases of tests/conformance that are marked `cluster: true`, with real pods that play their scripts."""

import json
import shlex
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from harness.events import whole_run

CORPUS = Path(__file__).parents[1] / "conformance"
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600}

# Says that it is ready only when a signal can no longer kill or miss it.
HANG = "trap 'exit 143' TERM; touch /tmp/ready; sleep 600 & wait"
READY = {"exec": {"command": ["test", "-e", "/tmp/ready"]}, "periodSeconds": 1, "failureThreshold": 600}


class Case:
    """One case, as it stands in its folder."""

    def __init__(self, folder):
        self.name = folder.name
        self.workflow, self.script, self.expect = (
            yaml.safe_load((folder / f"{part}.yaml").read_text()) for part in ("workflow", "script", "expect")
        )

    def manifest(self):
        """The workflow, its containers' programs replaced by what the script says."""
        made = json.loads(json.dumps(self.workflow))
        for task in made["spec"]["tasks"]:
            attempts = [fate for _, fates in self.scripts(task["name"]) for fate in fates]
            branches = [
                f"{pattern}/{number}) {program(fate)};;"
                for pattern, fates in self.scripts(task["name"])
                for number, fate in enumerate(fates, 1)
            ]
            if branches:
                item = "${{ index }}" if "forEach" in task else ""
                script = f'case "{item}/$COMPOZY_ATTEMPT" in {" ".join(branches)} *) exit 99;; esac'
                task["container"]["command"] = ["sh", "-c", script]
                if any(hangs(fate) for fate in attempts):
                    task["container"]["readinessProbe"] = READY
        return made

    def scripts(self, task):
        """The attempts of a task, each list with the items that it is for: those that are named come first."""
        pods = self.script["pods"]
        named = [(name.partition("/")[2], fates) for name, fates in pods.items() if name.startswith(f"{task}/")]
        return [*named, ("*", pods[task])] if task in pods else named


FOLDERS = sorted(path for path in CORPUS.iterdir() if path.is_dir())
CASES = [case for case in map(Case, FOLDERS) if case.expect.get("cluster")]


def seconds(duration):
    """`2s`, `500ms` in seconds; one unit is enough here."""
    number = duration.rstrip("hms")
    return float(number) * UNITS[duration.removeprefix(number)]


def only(mapping):
    """The one entry of a mapping."""
    [entry] = mapping.items()
    return entry


def hangs(fate):
    return only(fate)[0] in ("hangs", "evicted", "deleted")


def program(fate):
    """What the program of an attempt does, for a shell."""
    kind, how = only(fate)
    wait = f"sleep {seconds(how.get('after', '1s')):g}"
    if hangs(fate):
        return HANG
    if kind == "succeeds":
        return f"{wait}; {writes(how)} exit 0"
    assert kind == "exits", f"no program plays {kind} on a real cluster"
    log = f"echo {shlex.quote(how['log'])}; " if "log" in how else ""
    return f"{wait}; {log}{writes(how)} exit {how['code']}"


def writes(how):
    if "fills" in how:
        fill = f"head -c {how['fills'] - 8} /dev/zero | tr '\\0' x"
        return f"{{ printf '{{\"x\":\"'; {fill}; printf '\"}}'; }} > $COMPOZY_OUTPUTS;"
    text = json.dumps(how["outputs"]) if "outputs" in how else how.get("writes")
    return "" if text is None else f"printf %s {shlex.quote(text)} > $COMPOZY_OUTPUTS;"


def play(case, namespace, pods, executions):
    """Does to the pods what others do in the script, and what users do, in the order of the file."""
    name = case.workflow["metadata"]["name"]
    for task, attempts in case.script["pods"].items():
        for number, fate in enumerate(attempts, 1):
            kind, how = only(fate)
            if kind in ("evicted", "deleted"):
                pod = ready(pods, task, number)["metadata"]["name"]
                evict(namespace, pod, how) if kind == "evicted" else delete(namespace, "pod", pod)
    for act in case.script.get("user", []):
        moment, of = only(act["when"])
        if moment == "runs":
            ready(pods, of["task"], of.get("attempt", 1))
        else:
            assert moment == "fails", f"nobody waits for {moment} on a real cluster"
            failed(executions, of["task"], of.get("attempt", 1))
        what, how = only(act["do"])
        if what == "cancel":
            namespace.patch("cw", name, {"spec": {"cancel": how}})
        else:
            assert what == "deleteTask", f"nobody does {what} on a real cluster"
            found = executions.one(lambda te, task=how: te["spec"]["task"] == task)
            delete(namespace, "te", found["metadata"]["name"])


def ready(pods, task, attempt):
    """The pod of an attempt, once its program is ready to be told something."""
    labels = {"compozy.dev/task": task, "compozy.dev/attempt": str(attempt)}

    def is_ready(pod):
        conditions = {one["type"]: one["status"] for one in pod["status"].get("conditions", [])}
        return labels.items() <= pod["metadata"]["labels"].items() and conditions.get("Ready") == "True"

    return pods.one(is_ready, timeout=60, what=f"attempt {attempt} of {task} ready")


def failed(executions, task, attempt):
    """The task execution, once the failure of an attempt is recorded."""

    def has_failed(te):
        attempts = te.get("status", {}).get("attempts", [])
        return te["spec"]["task"] == task and any(one["number"] == attempt and "class" in one for one in attempts)

    return executions.one(has_failed, timeout=60, what=f"the failure of attempt {attempt} of {task}")


def delete(namespace, kind, name):
    namespace.kubectl("delete", kind, name, "--wait=false")


def evict(namespace, pod, how):
    assert how["by"] == "Api", f"nobody evicts by {how['by']} here"
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": pod, "namespace": namespace.name}}
    path = f"/api/v1/namespaces/{namespace.name}/pods/{pod}/eviction"
    namespace.kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(eviction))


def events(status, first=()):
    return [*first, *(seen["event"] for seen in status["transitions"])]


def check_error(expected, seen):
    assert (seen or {}).get("code") == (expected or {}).get("code"), seen
    for words in (expected or {}).get("says", []):
        assert words in seen["message"], seen
    assert ((seen or {}).get("details") or {}).get("failed_task_id") == (expected or {}).get("task"), seen


def check_run(expected, status):
    assert status["phase"] == expected["phase"], status
    assert events(status) == expected["events"]
    assert status.get("outputs") == expected.get("outputs")
    check_error(expected.get("error"), status.get("error"))


def check_task(expected, execution):
    status = execution["status"]
    assert status["phase"] == expected["phase"], status
    assert events(status, ["scheduled"]) == expected.get("events", [])
    told = [
        {key: one[key] for key in ("reason", "class", "exitCode") if key in one} for one in status.get("attempts", [])
    ]
    assert told == expected.get("attempts", [])
    assert execution["spec"].get("inputs") == expected.get("inputs")
    assert (status.get("outputs") or None) == expected.get("outputs")
    check_error(expected.get("error"), status.get("error"))


def moment(told, run, executions):
    """When an event happened, in whole seconds: more than that Kubernetes does not tell of a creation."""
    of, event = told.split(" ")
    found = run if of == "run" else executions[of]
    if event == "scheduled":
        return datetime.fromisoformat(found["metadata"]["creationTimestamp"]).replace(microsecond=0)
    at = next(seen["at"] for seen in found["status"]["transitions"] if seen["event"] == event)
    return datetime.fromisoformat(at).replace(microsecond=0)


def test_there_are_enough_of_them():
    assert len(CASES) >= 15


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES])
def test_case(namespace, subscriber, case):
    pods, executions = namespace.watch("pods"), namespace.watch("te")
    name = namespace.create(case.manifest())["metadata"]["name"]
    play(case, namespace, pods, executions)
    run = namespace.finished(name, timeout=90)
    check_run(case.expect["run"], run["status"])
    found = namespace.executions(name)
    rows = {row["name"]: row for row in run["status"].get("tasks", [])}
    for task, expected in case.expect["tasks"].items():
        if "items" in expected:
            row = rows[task]
            assert row["phase"] == expected["phase"], row
            counts = {"succeeded": 0, "failed": 0, "skipped": 0, **expected["items"]}
            assert {key: row[key] for key in counts} == counts, row
        elif expected["phase"] == "Skipped":
            assert task not in found and rows.get(task, {"phase": "Skipped"})["phase"] == "Skipped"
        else:
            check_task(expected, found[task])
    for before, after in case.expect.get("order", []):
        assert moment(before, run, found) <= moment(after, run, found), (before, after)
    whole_run(namespace, subscriber, name)
