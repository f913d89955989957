"""Prints all events that NATS has, then new ones as they come. Needs the package nats-py.

NATS_URL=nats://localhost:4222 NATS_PASSWORD=... python3 subscribe.py
"""

import asyncio
import os

import nats


async def main():
    client = await nats.connect(
        os.environ["NATS_URL"],
        user="subscriber",
        password=os.environ["NATS_PASSWORD"],
        # The only prefix under which this user may receive answers.
        inbox_prefix=b"_INBOX_subscriber",
    )
    # An ordered consumer acknowledges nothing, which is all that this user may do.
    events = await client.jetstream().subscribe("compozy.events.>", stream="COMPOZY_EVENTS", ordered_consumer=True)
    async for event in events.messages:
        print(event.headers["ce-id"], event.subject, event.data.decode(), flush=True)


asyncio.run(main())
