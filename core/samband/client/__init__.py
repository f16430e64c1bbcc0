"""A typed client of a samband host: the ten operations, and the areas around them, over HTTP.

    from samband.client import Client

    async with Client("https://samband.example.org", key) as host:
        run = await host.trigger_sync("hlf", "dynamics365")
        run = await host.wait(run)
        print(run.state, run.counts)

Answers are the views of `samband.views`; refusals are raised as the `samband.errors.ServiceError` they were on the host.
"""

from samband.client.client import Client
from samband.client.wire import Wire

__all__ = ["Client", "Wire"]
