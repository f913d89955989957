"""A tool as one process for all calls: executor tool serve word-count --namespace texts --stdio -- python3 word_count.py

A call is a line of JSON on standard input, an answer a line of JSON on standard output.
"""

import json
import sys


def count(text):
    return {"words": len(text.split())}


for line in sys.stdin:
    call = json.loads(line)
    try:
        answer = {"output": count(call["input"]["text"])}
    except KeyError:
        answer = {"error": {"code": "NO_TEXT", "message": "the input has no text"}}
    # Whatever is for people goes to standard error.
    print("counted for", call["workflow_id"], call["task_id"], file=sys.stderr)
    print(json.dumps({"id": call["id"], **answer}), flush=True)
