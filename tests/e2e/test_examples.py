"""Every file of examples/ is applied as it stands and ends as its header says."""

import re
from pathlib import Path

import pytest
import yaml

from harness.events import whole_run

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))


# What the tools give that somebody has to serve: the headers of their examples say so.
TOOLS = {"price": lambda _: {"amount": 42}, "charge": lambda given: given}


def gives(tool):
    async def answer(call, say):
        await say("SUCCESS", output=TOOLS[tool](call["input_args"]))

    return answer


def test_there_are_enough_of_them():
    assert len(EXAMPLES) >= 4


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in EXAMPLES])
def test_example(namespace, subscriber, serve, path):
    text = path.read_text()
    ends = re.search(r"^# ends: (\w+)$", text, re.MULTILINE)
    assert ends, "the header says how the run ends: `# ends: Succeeded`"
    manifests = list(yaml.safe_load_all(text))
    [manifest] = [made for made in manifests if made["kind"] == "Workflow"]
    for made in manifests:
        if made["kind"] == "Tool" and made["spec"].get("external"):
            serve(made["metadata"]["name"], gives(made["metadata"]["name"]))
    name = manifest["metadata"]["name"]
    assert name == path.stem

    namespace.kubectl("apply", "-f", str(path))
    status = namespace.finished(name)["status"]
    assert status["phase"] == ends[1], status
    if ends[1] == "Succeeded":
        assert set(status.get("outputs", {})) == set(manifest["spec"].get("outputs", {}))
    whole_run(namespace, subscriber, name)
    # Applied again, nothing happens.
    namespace.kubectl("apply", "-f", str(path))
