"""A Dataverse-like server whose pages were serialised before the clock starts, so that it costs next to nothing to serve.

Run as a process of its own: ``python tests/benchmarks/odata_server.py RECORDS [PAGE_SIZE]`` prints one JSON line with its
address once every page lies ready, and stops when its standard input closes.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import uuid

import orjson
from aiohttp import web

FIRST = ["Kari", "Ola", "Ingrid", "Bjørn", "Åse", "Lars", "Sølvi", "Per", "Anne", "Nils"]
LAST = ["Nordmann", "Hansen", "Ødegård", "Åsheim", "Larsen", "Bakke", "Lie", "Moen", "Dahl", "Strand"]
CITY = ["Oslo", "Bergen", "Tromsø", "Ålesund", "Bodø"]


def contact(number: int, rng: random.Random) -> dict[str, object]:
    """Gives one fictitious contact with the columns a standard mapping selects."""
    first, last = rng.choice(FIRST), rng.choice(LAST)
    return {
        "@odata.etag": f'W/"{1000 + number}"',
        "contactid": str(uuid.UUID(int=rng.getrandbits(128))),
        "firstname": first,
        "lastname": last,
        "emailaddress1": f"person{number}@example.org",
        "telephone1": f"+47{rng.randrange(20000000, 99999999)}",
        "mobilephone": None,
        "birthdate": f"{rng.randrange(1930, 2005)}-{rng.randrange(1, 13):02d}-{rng.randrange(1, 29):02d}",
        "address1_line1": f"Storgata {number % 200}",
        "address1_postalcode": f"{rng.randrange(1000, 9999)}",
        "address1_city": rng.choice(CITY),
        "address1_country": "Norge",
        "statecode": 0 if rng.random() < 0.95 else 1,
        "statuscode": 1,
    }


def build_pages(records: int, page_size: int) -> list[bytes]:
    """Serialises every page; the links are filled in when the port is known."""
    rng = random.Random(7)
    pages = []
    for start in range(0, records, page_size):
        rows = [contact(n, rng) for n in range(start, min(start + page_size, records))]
        pages.append(orjson.dumps(rows))
    return pages


def serve(pages: list[bytes]) -> web.Application:
    """Gives an application with a token endpoint and the contacts, paged and with a delta link at the end."""

    async def token(_request: web.Request) -> web.Response:
        return web.json_response({"token_type": "Bearer", "expires_in": 3599, "access_token": "benchmark"})

    async def contacts(request: web.Request) -> web.Response:
        link = f"{request.scheme}://{request.host}{request.path}"
        number = int(request.query.get("page", "0"))
        if "$deltatoken" in request.query:
            body = b'{"@odata.deltaLink":"' + f"{link}?$deltatoken=1".encode() + b'","value":[]}'
            return web.Response(body=body, content_type="application/json")
        if number + 1 < len(pages):
            tail = b'"@odata.nextLink":"' + f"{link}?page={number + 1}".encode() + b'"'
        else:
            tail = b'"@odata.deltaLink":"' + f"{link}?$deltatoken=1".encode() + b'"'
        body = b"{" + tail + b',"value":' + pages[number] + b"}"
        return web.Response(body=body, content_type="application/json")

    async def definition(_request: web.Request) -> web.Response:
        return web.json_response({
            "LogicalName": "contact", "EntitySetName": "contacts", "PrimaryIdAttribute": "contactid",
            "ChangeTrackingEnabled": True,
        })  # fmt: skip

    app = web.Application()
    app.router.add_get("/api/data/v9.2/EntityDefinitions{which}", definition)
    app.router.add_post("/{tenant}/oauth2/v2.0/token", token)
    app.router.add_get("/api/data/v9.2/contacts", contacts)
    return app


async def main() -> None:
    records = int(sys.argv[1])
    page_size = int(sys.argv[2]) if len(sys.argv) > 2 else 5000
    pages = build_pages(records, page_size)
    runner = web.AppRunner(serve(pages), access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    print(json.dumps({"url": f"http://{host}:{port}", "pages": len(pages), "bytes": sum(map(len, pages))}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(main())
