"""A running simulator and a plain HTTP client for it; neither knows the adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from samband_xledger.simulator import Simulator, SimulatorAddress

ADD = """
mutation ($inputs: [AddGLImportItemsInput!]!) {
  addGLImportItems(inputs: $inputs) { edges { clientId node { dbId } } }
}"""
POSTED = """
query ($keys: [String!]) {
  journalEntries(first: 100, filter: {extIdentifier_in: $keys}) {
    edges { cursor node {
      dbId extIdentifier amount text postedDate account { code } transactionHeader { transactionNumber }
    } }
    pageInfo { hasNextPage hasPreviousPage }
  }
}"""
ERRORS = "{ glImportItemErrors(first: 100) { edges { node { transactionDbId message errorLevel { code name } } } } }"


def voucher(number: int, *, key: str = "", amounts: tuple[str, ...] = ("100.00", "-100.00"), **more: Any) -> Any:
    """Returns the inputs of one voucher: the last line is owed, the others are costs."""
    accounts = ["7140"] * (len(amounts) - 1) + ["2910"]
    return [
        {
            "clientId": f"{number}-{line}",
            "node": {
                "transactionSource": {"code": "GL"},
                "trRegNumber": number,
                "trItemNumber": line,
                "postedDate": "2026-03-02",
                "account": {"code": account},
                "amount": amount,
                "currency": {"code": "NOK"},
                "jobLevel": {"dbSubId": 1},
                "text": "Reise",
                "extIdentifier": f"{key or number}-{line}",
                **more,
            },
        }
        for line, (account, amount) in enumerate(zip(accounts, amounts, strict=True), start=1)
    ]


@dataclass
class Client:
    """Asks as an integration does, and uses the control door."""

    http: aiohttp.ClientSession
    address: SimulatorAddress
    simulator: Simulator
    headers: dict[str, str] = field(default_factory=dict)
    add_query: str = ADD
    posted_query: str = POSTED

    @staticmethod
    def voucher(number: int, **more: Any) -> Any:
        return voucher(number, **more)

    async def posted(self, *keys: str) -> list[Any]:
        """Returns the posted lines with these keys."""
        return await self.nodes(POSTED, "journalEntries", keys=list(keys))

    async def send(self, query: str, *, url: str = "", headers: dict[str, str] | None = None, **variables: Any) -> Any:
        """Returns status and body of a query."""
        given = self.headers if headers is None else headers
        target = url or self.address.settings["graphql_url"]
        async with self.http.post(target, json={"query": query, "variables": variables}, headers=given) as answer:
            return answer.status, await answer.json()

    async def ask(self, query: str, **variables: Any) -> Any:
        """Returns the data of a query that must succeed."""
        status, body = await self.send(query, **variables)
        assert (200, None) == (status, body.get("errors")), body
        return body["data"]

    async def nodes(self, query: str, name: str, **variables: Any) -> list[Any]:
        """Returns the nodes of one list."""
        return [edge["node"] for edge in (await self.ask(query, **variables))[name]["edges"]]

    async def add(self, *vouchers: Any) -> list[str]:
        """Stages vouchers and returns the ids of their lines."""
        inputs = [line for lines in vouchers for line in lines]
        edges = (await self.ask(ADD, inputs=inputs))["addGLImportItems"]["edges"]
        assert [line["clientId"] for line in inputs] == [edge["clientId"] for edge in edges]
        return [edge["node"]["dbId"] for edge in edges]

    async def messages(self) -> list[str]:
        """Returns what the job complains of."""
        return [row["message"] for row in await self.nodes(ERRORS, "glImportItemErrors")]

    async def control(self, path: str, order: dict[str, Any] | None = None) -> Any:
        """Gives the control door an order."""
        async with self.http.post(f"{self.address.control_url}/{path}", json=order or {}) as answer:
            found = await answer.json()
            assert 200 == answer.status, found
            return found

    async def look(self, path: str) -> Any:
        """Looks through the control door."""
        async with self.http.get(f"{self.address.control_url}/{path}") as answer:
            assert 200 == answer.status
            return await answer.json()

    async def run_job(self) -> Any:
        return await self.control("job/run")


@pytest.fixture
def drop_folder(tmp_path: Path) -> Path:
    return tmp_path / "drop"


@pytest.fixture
async def api(drop_folder: Path) -> AsyncIterator[Client]:
    """A client of a simulator that never failed in a way it did not foresee."""
    simulator = Simulator(drop_folder=drop_folder)
    address = await simulator.start()
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), timeout=timeout) as http:
        headers = {"Authorization": f"token {address.credentials['api_token']}"}
        yield Client(http, address, simulator, headers)
    await simulator.stop()
    assert [] == simulator.state.internal_errors
