"""Prints the events of one run as NATS delivers them. It knows the public subjects and headers, nothing of the operator.

    NATS_PASSWORD=... subscriber.py URL USER

Says `listening` once it is subscribed, reads the UID of a Workflow from standard input, prints every message about that
run, those included that came before the UID was known, and ends with the run's last one.
"""

import asyncio
import json
import os
import sys

import nats

SUBJECTS = "compozy.events.>"
FINAL = ("completed", "failed", "cancelled", "timed_out")
PATIENCE_SECONDS = 30


def show(message):
    print(f"\n{message.subject}")
    for name, value in sorted(message.headers.items()):
        print(f"  {name}: {value}")
    for line in json.dumps(json.loads(message.data), indent=2, ensure_ascii=False).splitlines():
        print(f"    {line}")


def about(message, run):
    """Whether a message is of the run: its source names the Workflow by UID."""
    return (message.headers or {}).get("ce-source", "").endswith(run)


def last(message):
    entity, event = message.subject.split(".")[2], message.subject.split(".")[-1]
    return entity == "workflow" and event in FINAL


async def print_run(arrived, run):
    seen = 0
    while True:
        message = await arrived.get()
        if about(message, run):
            seen += 1
            show(message)
            if last(message):
                return seen


async def main(url, user):
    # The read-only user may receive answers under this prefix only.
    client = await nats.connect(
        url, user=user, password=os.environ["NATS_PASSWORD"], inbox_prefix=f"_INBOX_{user}".encode()
    )
    arrived = asyncio.Queue()
    await client.subscribe(SUBJECTS, cb=arrived.put)
    await client.flush()
    print("listening", flush=True)
    run = (await asyncio.to_thread(sys.stdin.readline)).strip()
    if not run:
        sys.exit("no run was named")
    try:
        seen = await asyncio.wait_for(print_run(arrived, run), PATIENCE_SECONDS)
    except TimeoutError:
        sys.exit(f"the last event of run {run} did not arrive within {PATIENCE_SECONDS} s")
    await client.close()
    print(f"\n{seen} messages")


asyncio.run(main(*sys.argv[1:]))
