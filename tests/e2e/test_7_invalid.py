"""Every manifest under tests/invalid/ is refused where its first line says, with the words that it names."""

import re
from pathlib import Path

import pytest
import yaml

from harness import cluster
from harness.events import names, whole_run

MANIFESTS = sorted((Path(__file__).parents[1] / "invalid").glob("*.yaml"))
EXPECT = re.compile(r"# expect: (apply|InvalidSpec): (.+)")


def expected(path):
    """Where the manifest is refused, and words of the message."""
    first = path.read_text().split("\n", 1)[0]
    match = EXPECT.fullmatch(first)
    assert match, f"{path.name}: the first line must be `# expect: <apply|InvalidSpec>: <words>`, it is: {first}"
    return match.groups()


def refused_by(where):
    return [pytest.param(path, id=path.stem) for path in MANIFESTS if expected(path)[0] == where]


def test_there_are_enough_of_them():
    assert len(MANIFESTS) >= 15


@pytest.mark.parametrize("path", refused_by("apply"))
def test_refused_by_kubectl_apply(path):
    # Nothing is stored, so nothing needs a namespace of its own: what is refused is refused in a dry run too.
    with pytest.raises(cluster.Refused) as refused:
        cluster.kubectl("apply", "--dry-run=server", "-f", str(path))
    assert expected(path)[1] in refused.value.stderr


def test_invalid_specs_fail_with_a_message_that_names_the_field(namespace, subscriber):
    paths = {yaml.safe_load(param.values[0].read_text())["metadata"]["name"]: param.values[0]
             for param in refused_by("InvalidSpec")}  # fmt: skip
    pods = namespace.watch("pods")
    for path in paths.values():
        namespace.kubectl("apply", "-f", str(path))
    wrong = []
    for name, path in paths.items():
        status = namespace.finished(name, timeout=30)["status"]
        conditions = {found["type"]: found for found in status["conditions"]}
        seen = (status["phase"], conditions["Finished"]["reason"], conditions["Succeeded"]["status"])
        if seen != ("Failed", "InvalidSpec", "False") or expected(path)[1] not in conditions["Finished"]["message"]:
            wrong.append(
                f"{path.name}: {seen}, expected {expected(path)[1]!r} in {conditions['Finished']['message']!r}"
            )
        assert status["error"]["code"] == "INVALID_SPEC"
        assert status["error"]["message"]
    assert not wrong, "\n".join(wrong)
    assert not pods.seen(), "nothing of an invalid workflow runs"
    # Subscribers learn of it: it started, and failed.
    told = whole_run(namespace, subscriber, next(iter(paths)))
    assert names(told) == ["started", "failed"]
    assert told[1].payload["error"]["code"] == "INVALID_SPEC"
