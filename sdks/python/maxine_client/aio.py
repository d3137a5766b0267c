"""The client for asyncio. Waiting is done in threads; choosing an instance waits for nothing.

    async with AsyncClient(nodes) as client:
        await client.register("orders", "orders-1", address="http://10.0.0.9:3000")
        payments = await client.resolver("payments")
        with payments.choose() as chosen:
            ...  # a request to chosen.address
"""

import asyncio
import signal

from ._client import Client


class AsyncRegistration:
    """An instance that is kept registered."""

    def __init__(self, kept):
        #: The registration that the threads use.
        self.kept = kept

    async def stop(self, drain_s=0.0):
        """Deregisters, so that callers choose other instances, and waits `drain_s` for those that still have it."""
        await asyncio.to_thread(self.kept.stop)
        await asyncio.sleep(drain_s)


class AsyncClient:
    """A client for asyncio. The parameters are those of `Client`."""

    def __init__(self, nodes, **options):
        self._client = Client(nodes, **options)

    async def register(self, service, instance, *, address, **registration):
        """Registers an instance, and keeps it registered until `stop()` of the result, or of this client."""
        kept = await asyncio.to_thread(self._client.register, service, instance, address=address, **registration)
        return AsyncRegistration(kept)

    async def resolver(self, service, *, zone=None):
        """A cache of the instances of a service, whose `choose` needs no `await`."""
        return await asyncio.to_thread(self._client.resolver, service, zone=zone)

    async def changes(self, resolver):
        """The instances of a resolver now, and after each change."""
        loop, changed = asyncio.get_running_loop(), asyncio.Queue(1)

        def tell(instances):
            if changed.full():
                changed.get_nowait()
            changed.put_nowait(instances)

        resolver.on_change(lambda instances: loop.call_soon_threadsafe(tell, instances))
        yield resolver.instances
        while True:
            yield await changed.get()

    async def stop(self, drain_s=0.0):
        """Deregisters all instances, waits `drain_s` for the callers that still have them, and ends."""
        await asyncio.to_thread(self._client.stop, drain_s)

    def stop_on_signals(self, ended, drain_s=0.0, signals=(signal.SIGTERM, signal.SIGINT)):
        """Calls `stop` when the process is asked to end, and then sets `ended`, an `asyncio.Event`."""
        loop, tasks = asyncio.get_running_loop(), set()

        async def end():
            await self.stop(drain_s)
            ended.set()

        for number in signals:
            loop.add_signal_handler(number, lambda: tasks.add(loop.create_task(end())))

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.stop()
