"""Tools that the operator serves: a Deployment for each, whose pods show NATS whose they are."""

import contextlib
import time

import nats
import pytest

from harness import cluster, installation, nats_server
from harness.manifests import DOUBLING_PROCESS, DOUBLING_PROGRAM, IMAGE, call, env, handled, shell, workflow
from harness.nats_client import NatsClient

CGI = r"""#!/bin/sh
n=$(head -c "$CONTENT_LENGTH" | sed 's/.*"n":\([0-9]*\).*/\1/')
printf 'Content-Type: application/json\r\n\r\n{"n": %d}' $((2 * n))
"""
# A shell that is process 1 would ignore TERM.
WEB_SERVER = "trap 'exit 0' TERM; httpd -f -p 8000 -h /www & wait"


HANDLERS = {
    "exec": handled("double", exec=shell(DOUBLING_PROGRAM)),
    "stdio": handled("double", stdio=shell(DOUBLING_PROCESS)),
    "http": handled(
        "double",
        {
            **shell(WEB_SERVER),
            "volumeMounts": [{"name": "www", "mountPath": "/www/cgi-bin"}],
            "readinessProbe": {"tcpSocket": {"port": 8000}, "periodSeconds": 1},
        },
        http={"port": 8000, "path": "/cgi-bin/double"},
        podTemplate={"spec": {"volumes": [{"name": "www", "configMap": {"name": "www", "defaultMode": 0o755}}]}},
    ),
}
DOUBLE = HANDLERS["exec"]
SLEEPER = {"containers": [{"name": "only", "image": IMAGE, "command": ["sleep", "600"]}], "nodeSelector": {"a": "none"}}


def served(namespace, name):
    """Waits until a pod takes the calls of a tool."""
    namespace.wait("--for=condition=Ready", f"tool/{name}")


def servers(namespace, name):
    """The pods of a tool, those that end included."""
    return namespace.get("pods", "-l", f"compozy.dev/tool={name}")


def ready_of(tool):
    """The condition of a tool, empty while there is none."""
    conditions = tool.get("status", {}).get("conditions", [])
    return next((found for found in conditions if found["type"] == "Ready"), {})


def not_served(namespace, name, reason):
    """What is said of a tool that nobody serves, once it is for this reason."""
    tools = namespace.watch("tools")
    found = tools.one(
        lambda tool: tool["metadata"]["name"] == name and ready_of(tool).get("reason") == reason, what=reason
    )
    assert ready_of(found)["status"] == "False"
    return ready_of(found)["message"]


def doubles(namespace, run):
    """Calls the tool `double` twice, and finds that it does."""
    chain = [
        call("once", "double", **{"with": {"n": 4}}),
        call("twice", "double", dependsOn=["once"], **{"with": {"n": "${{ tasks.once.outputs.n }}"}}),
    ]
    namespace.create(workflow(run, *chain, outputs={"n": "${{ tasks.twice.outputs.n }}"}))
    assert namespace.succeeded(run)["status"]["outputs"] == {"n": 16}


@pytest.mark.parametrize("kind", HANDLERS)
def test_the_operator_runs_what_serves_a_tool(namespace, kind):
    namespace.create({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "www"}, "data": {"double": CGI}})
    namespace.create(HANDLERS[kind])
    served(namespace, "double")
    doubles(namespace, "chain")
    found = namespace.get("tool", "double")
    status = found["status"]
    assert status["observedGeneration"] == found["metadata"]["generation"]
    assert (status["replicas"], status["readyReplicas"], ready_of(found)["reason"]) == (1, 1, "Serving")
    head, row = namespace.kubectl("get", "tools").splitlines()
    assert head.split()[:2] == ["NAME", "READY"] and row.split()[:2] == ["double", "True"]


def test_as_many_pods_serve_a_tool_as_it_says(namespace):
    namespace.create(DOUBLE)
    served(namespace, "double")
    for count in (3, 1):
        namespace.patch("tool", "double", {"spec": {"handler": {"replicas": count}}})
        for field in ("replicas", "readyReplicas"):
            namespace.wait(f"--for=jsonpath={{.status.{field}}}={count}", "tool/double")
    # What is left out is not the operator's: an autoscaler may decide.
    namespace.patch("tool", "double", {"spec": {"handler": {"replicas": None}}})
    generation = namespace.get("tool", "double")["metadata"]["generation"]
    namespace.wait(f"--for=jsonpath={{.status.observedGeneration}}={generation}", "tool/double")
    namespace.kubectl("scale", "deployment/compozy-tool-double", "--replicas=2")
    namespace.wait("--for=jsonpath={.status.readyReplicas}=2", "tool/double")


@pytest.mark.timeout(180)
def test_a_changed_tool_is_rolled_out_without_a_call_that_fails(namespace):
    says = shell('sleep 0.3; echo "{\\"version\\": \\"$VERSION\\"}"')
    namespace.create(handled("greet", {"env": env(VERSION="one")}, exec=says))
    served(namespace, "greet")

    def answers(run):
        items = call("ask", "greet", forEach={"items": list(range(12))})
        namespace.create(workflow(run, items, outputs={"all": "${{ tasks.ask.outputs }}"}))
        return {one["version"] for one in namespace.succeeded(run)["status"]["outputs"]["all"]}

    def version_of(pod):
        [container] = pod["spec"]["containers"]
        return next(one["value"] for one in container["env"] if one["name"] == "VERSION")

    executions = namespace.watch("te")
    spanning = call("ask", "greet", forEach={"items": list(range(60)), "maxParallel": 6})
    namespace.create(workflow("spanning", spanning, outputs={"all": "${{ tasks.ask.outputs }}"}))
    executions.one(lambda found: found.get("status", {}).get("phase") == "Succeeded", what="a call that is answered")
    changed = {"container": {"image": IMAGE, "env": env(VERSION="two")}}
    namespace.patch("tool", "greet", {"spec": {"handler": changed}})
    runs, until = 0, time.monotonic() + 90
    # One run after the other, until nothing of the old is left, its pod included that finishes what it has.
    while [version_of(pod) for pod in servers(namespace, "greet")] != ["two"]:
        assert time.monotonic() < until, "the old one stays"
        runs += 1
        assert answers(f"run-{runs}") <= {"one", "two"}
    # No task had a retry: not one call failed.
    assert {"version": "one"} in namespace.succeeded("spanning")["status"]["outputs"]["all"]
    assert answers("after") == {"two"}


def test_what_serves_a_tool_goes_with_it(namespace):
    namespace.create(DOUBLE)
    served(namespace, "double")
    assert namespace.exists("deployment", "compozy-tool-double") and servers(namespace, "double")
    namespace.delete("tool", "double")
    namespace.wait("--for=delete", "deployment/compozy-tool-double")
    namespace.wait("--for=delete", "pod", "-l", "compozy.dev/tool=double")
    # The same again is a new one.
    namespace.create(DOUBLE)
    served(namespace, "double")
    doubles(namespace, "again")


def test_a_handler_that_asks_for_what_is_not_allowed_runs_nothing_until_it_is_corrected(namespace):
    privileged = {"securityContext": {"privileged": True}}
    named = {"spec": {"serviceAccountName": "compozy-operator"}}
    namespace.create(handled("double", privileged, exec=shell(DOUBLING_PROGRAM), podTemplate=named))
    message = not_served(namespace, "double", "InvalidSpec")
    assert "spec.handler.container.securityContext.privileged" in message
    assert "spec.handler.podTemplate.spec.serviceAccountName" in message
    assert not namespace.exists("deployment", "compozy-tool-double")
    corrected = {"container": {"securityContext": None}, "podTemplate": None}
    namespace.patch("tool", "double", {"spec": {"handler": corrected}})
    served(namespace, "double")
    doubles(namespace, "corrected")


def test_a_deployment_of_somebody_else_is_left_alone_and_its_name_taken_once_it_is_gone(namespace):
    labels = {"app": "mine"}
    theirs = {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "compozy-tool-double"},
        "spec": {
            "replicas": 0, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": SLEEPER["containers"]}},
        },
    }  # fmt: skip
    before = namespace.create(theirs)
    namespace.create(DOUBLE)
    assert "compozy-tool-double" in not_served(namespace, "double", "NameTaken")
    after = namespace.get("deployment", "compozy-tool-double")
    assert (after["spec"], after["metadata"]["generation"]) == (before["spec"], before["metadata"]["generation"])
    assert "ownerReferences" not in after["metadata"]
    namespace.delete("deployment", "compozy-tool-double")
    # It is looked for every thirty seconds: no watch shows it.
    served(namespace, "double")
    doubles(namespace, "served")


def test_a_tool_whose_pods_are_refused_says_why(namespace):
    cluster.kubectl("label", "namespace", namespace.name, "pod-security.kubernetes.io/enforce=restricted")
    namespace.create(DOUBLE)
    tools = namespace.watch("tools")
    said = tools.one(lambda tool: "PodSecurity" in ready_of(tool).get("message", ""), what="why it is not served")
    assert ready_of(said)["reason"] == "NotServed"
    assert "restricted" in ready_of(said)["message"]


@pytest.mark.own_operator
def test_pods_fit_the_restricted_level_if_wanted_and_need_no_token_where_nats_lets_in_everybody(
    namespace, host_operator, tmp_path
):
    cluster.kubectl("label", "namespace", namespace.name, "pod-security.kubernetes.io/enforce=restricted")
    # Where pods reach it.
    address = cluster.nodes()[0]["status"]["addresses"][0]["address"]
    with contextlib.closing(nats_server.HostNats(tmp_path / "open", address=address)) as open_to_all:
        flags = {"executor_image": installation.executor_image(), "restricted_pods": "true"}
        host_operator.start(**open_to_all.flags(), **flags).leads()
        namespace.create(DOUBLE)
        served(namespace, "double")
        doubles(namespace, "restricted")
        [pod] = servers(namespace, "double")
        assert not [one for one in pod["spec"]["volumes"] if "projected" in one]


def test_tools_of_the_same_name_are_their_namespaces_own(namespace):
    says = shell('echo "{\\"who\\": \\"$WHO\\"}"')
    with contextlib.closing(cluster.Namespace(f"{namespace.name}-other")) as other:
        both = (namespace, other)
        for one in both:
            one.create(handled("who", {"env": env(WHO=one.name)}, exec=says))
        for one in both:
            served(one, "who")
        for one in both:
            items = call("ask", "who", forEach={"items": list(range(10))})
            one.create(workflow("asks", items, outputs={"all": "${{ tasks.ask.outputs }}"}))
        for one in both:
            assert one.succeeded("asks")["status"]["outputs"]["all"] == [{"who": one.name}] * 10


@pytest.mark.alone
def test_a_pod_that_starts_while_no_operator_answers_waits_for_one(namespace):
    namespace.create(DOUBLE)
    served(namespace, "double")
    [first] = servers(namespace, "double")
    pods = namespace.watch("pods")
    installation.scale(installation.OPERATOR, 0)
    try:
        namespace.delete("pod", first["metadata"]["name"])
        second = pods.one(
            lambda pod: pod["metadata"]["uid"] != first["metadata"]["uid"] and pod["status"]["phase"] == "Running",
            what="another pod that runs",
        )
    finally:
        installation.scale(installation.OPERATOR, 1)
    name = second["metadata"]["name"]
    namespace.wait("--for=condition=Ready", f"pod/{name}")
    [container] = namespace.get("pod", name)["status"]["containerStatuses"]
    assert container["restartCount"] == 0
    served(namespace, "double")
    doubles(namespace, "afterwards")


# Who is what in NATS.


def token(namespace, pod=None, audience="compozy-nats"):
    """A token of the namespace's service account; of one of its pods if one is named."""
    flags = [f"--audience={audience}"] if audience else []
    flags += ["--bound-object-kind=Pod", f"--bound-object-name={pod}"] if pod else []
    return namespace.kubectl("create", "token", "default", *flags).strip()


@contextlib.contextmanager
def let_in(**shown):
    """A client of NATS that shows a token, or nothing; or the server's refusal."""
    with contextlib.closing(NatsClient()) as client:
        client.run(client.connect(installation.nats_url(), allow_reconnect=False, **shown))
        yield client


def test_a_pod_may_serve_its_own_tool_and_nothing_else(namespace):
    namespace.create(handled("own", exec=shell(DOUBLING_PROGRAM)))
    namespace.create(handled("other", exec=shell(DOUBLING_PROGRAM)))
    for name in ("own", "other"):
        served(namespace, name)
    [[own], [other]] = (servers(namespace, name) for name in ("own", "other"))
    space, inbox = namespace.name, f"_INBOX_{own['metadata']['uid']}"
    calls = f"compozy.commands.tool.*.execute.{space}_"
    with let_in(token=token(namespace, own["metadata"]["name"]), inbox_prefix=inbox.encode()) as client:

        def publishing(subject):
            return client.refusal(lambda connection: connection.publish(subject, b"{}"))

        def hearing(subject, group=""):
            return client.refusal(lambda connection: connection.subscribe(subject, queue=group))

        assert not publishing(f"compozy.results.tool.{space}.caller.call")
        for subject in (
            "compozy.events.task.instance.x.completed",
            "compozy.results.tool.default.caller.call",
            f"compozy.commands.tool.{space}_a.execute.{space}_own",
            "$JS.API.STREAM.DELETE.COMPOZY_EVENTS",
            "$SYS.REQ.USER.AUTH",
        ):
            assert "permissions violation for publish" in publishing(subject), subject

        assert not hearing(f"{inbox}.>")
        for subject in (
            f"_INBOX_{other['metadata']['uid']}.>",
            "_INBOX_executor.>",
            "_INBOX.>",
            "compozy.events.>",
            f"compozy.results.tool.{space}.>",
            "$SYS.REQ.USER.AUTH",
            ">",
        ):
            assert "permissions violation for subscription" in hearing(subject), subject

        # Its own calls only as one of the group: otherwise it would hear those of the others of its kind too.
        assert not hearing(f"{calls}own", "own")
        for subject, group in (
            (f"{calls}other", "other"),
            (f"{calls}other", "own"),
            (f"{calls}own", ""),
            (f"{calls}own", "mine"),
            ("compozy.commands.tool.*.execute.default_own", "own"),
            ("compozy.commands.tool.*.execute.*", "own"),
        ):
            assert "permissions violation for subscription" in hearing(subject, group), (subject, group)


def test_who_does_not_show_the_token_of_a_pod_of_a_tool_is_kept_out(namespace):
    namespace.create(DOUBLE)
    served(namespace, "double")
    [pod] = servers(namespace, "double")
    real = pod["metadata"]["name"]
    # Labels are nobody's word. Neither of the two gets to a node.
    labels = {"compozy.dev/tool": "double", "app": "imitation"}
    single = {"name": "single", "labels": labels}
    namespace.create({"apiVersion": "v1", "kind": "Pod", "metadata": single, "spec": SLEEPER})
    template = {"metadata": {"labels": labels}, "spec": SLEEPER}
    namespace.create(
        {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "imitation", "labels": labels},
            "spec": {"selector": {"matchLabels": {"app": "imitation"}}, "template": template},
        }
    )  # fmt: skip
    pods = namespace.watch("pods")
    imitation = pods.one(lambda found: found["metadata"]["name"].startswith("imitation-"), what="the imitation's pod")

    with let_in(token=token(namespace, real)):
        pass
    kept = token(namespace, real)
    shown = {
        "no token": {},
        "no token at all": {"token": "garbage"},
        "of no pod": {"token": token(namespace)},
        "of a pod with the label": {"token": token(namespace, "single")},
        "of a Deployment that no tool owns": {"token": token(namespace, imitation["metadata"]["name"])},
        "for the API server": {"token": token(namespace, real, audience=None)},
        "for somebody else": {"token": token(namespace, real, audience="vault")},
        "a wrong password": {"user": installation.secret("tools")[0], "password": "wrong"},
        "another user": {"user": "admin", "password": token(namespace, real)},
    }
    for what, connect in shown.items():
        with pytest.raises(nats.errors.Error, match="Authorization Violation"), let_in(**connect):
            pytest.fail(f"let in: {what}")
    namespace.delete("pod", real)
    with pytest.raises(nats.errors.Error, match="Authorization Violation"), let_in(token=kept):
        pytest.fail("let in: of a pod that is gone")
