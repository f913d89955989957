"""Workflows as a test writes them: short."""

IMAGE = "busybox:1.36"

# Handlers of a tool or a pool: each doubles the number `n`.
DOUBLING_PROGRAM = r"""
n=$(sed 's/.*"n":\([0-9]*\).*/\1/')
echo "{\"n\": $((2 * n))}"
"""
DOUBLING_PROCESS = r"""
while read -r line; do
  id=$(printf %s "$line" | sed 's/.*"id":"\([^"]*\)".*/\1/')
  n=$(printf %s "$line" | sed 's/.*"n":\([0-9]*\).*/\1/')
  echo "{\"id\": \"$id\", \"output\": {\"n\": $((2 * n))}}"
done
"""

# Waits until it is told to stop. A shell that is process 1 would ignore TERM.
HANG = "trap 'exit 143' TERM; sleep 600 & wait"
# Hangs in its first attempt, succeeds in the next.
HANG_ONCE = f'[ "$COMPOZY_ATTEMPT" != 1 ] || {{ {HANG}; }}'


def workflow(name, *tasks, **spec):
    """A workflow of these tasks; further fields of its spec by name."""
    return {
        "apiVersion": "compozy.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name},
        "spec": {**spec, "tasks": list(tasks)},
    }


def task(name, script="true", container=None, **fields):
    """A task that runs a shell script; `container` adds to its container, further fields to the task."""
    base = {"image": IMAGE, "command": ["sh", "-c", script]}
    return {"name": name, "container": {**base, **(container or {})}, **fields}


def call(name, tool, **fields):
    """A task that calls a tool."""
    return {"name": name, "tool": {"name": tool}, **fields}


def tool(name, **spec):
    """A tool that the test serves itself."""
    return {
        "apiVersion": "compozy.dev/v1alpha1",
        "kind": "Tool",
        "metadata": {"name": name},
        "spec": {"external": True, **spec},
    }


def handled(name, container=None, **handler):
    """A tool that the operator serves: `exec`, `stdio` or `http`, and whatever else its handler has, by name."""
    return {**tool(name), "spec": {"handler": {"container": {"image": IMAGE, **(container or {})}, **handler}}}


def shell(text):
    """The command of a handler that is a shell script."""
    return {"command": ["sh", "-c", text]}


def pooled(name, pool, **fields):
    """A task that a pool's worker runs."""
    return {"name": name, "pool": {"name": pool}, **fields}


def pool(name, container=None, **spec):
    """A pool of workers: `exec`, `stdio` or `http`, and whatever else its spec has, by name."""
    return {
        "apiVersion": "compozy.dev/v1alpha1",
        "kind": "ExecutorPool",
        "metadata": {"name": name},
        "spec": {"container": {"image": IMAGE, **(container or {})}, **spec},
    }


def env(**values):
    """Environment variables as a container has them."""
    return [{"name": name, "value": value} for name, value in values.items()]


def retry(attempts, initial="100ms"):
    """A retry policy without a random part."""
    return {"maxAttempts": attempts, "backoff": {"initial": initial, "factor": 2, "jitter": 0}}
