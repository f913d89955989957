"""What the workers of the bench run: computes, sleeps or does nothing, and notes when it did."""

import asyncio
import json
import sys
import time


def fibo(n):
    return n if n < 2 else fibo(n - 1) + fibo(n - 2)


async def answer(call, notes):
    def note(what):
        # Whoever is killed has noted what it did before: a short line is written as one.
        if notes:
            notes.write(f"{what} {call['task_id']} {call['task_exec_id']} {call['attempt']} {time.time():.6f}\n")
            notes.flush()

    note("began")
    given = call["input"]
    if sleep := given.get("sleep"):
        await asyncio.sleep(sleep)
    output = {"n": fibo(given["fibo"])} if "fibo" in given else {}
    note("ended")
    # One write: answers of several tasks must not mix.
    sys.stdout.write(json.dumps({"id": call["id"], "output": output}) + "\n")
    sys.stdout.flush()


async def main():
    notes = open(sys.argv[1], "a") if len(sys.argv) > 1 else None  # noqa: SIM115
    reader = asyncio.StreamReader(limit=2**20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    tasks = set()
    while line := await reader.readline():
        task = asyncio.create_task(answer(json.loads(line), notes))
        tasks.add(task)
        task.add_done_callback(tasks.discard)


asyncio.run(main())
