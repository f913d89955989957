"""What a pool can do, as one process for all tasks: executor worker text --namespace texts --stdio -- python3 text.py

A task is a line of JSON on standard input, what came of it a line of JSON on standard output.
"""

import json
import sys

HANDLERS = {
    "upper": lambda given: {"text": given["text"].upper()},
    "count": lambda given: {"words": len(given["text"].split())},
}

for line in sys.stdin:
    task = json.loads(line)
    try:
        answer = {"output": HANDLERS[task.get("handler")](task["input"])}
    except KeyError as missing:
        answer = {"error": {"code": "MISSING", "message": f"there is no {missing}"}}
    # Whatever is for people goes to standard error.
    print("done for", task["workflow_id"], task["task_id"], file=sys.stderr)
    print(json.dumps({"id": task["id"], **answer}), flush=True)
