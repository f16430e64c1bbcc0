"""What the database refuses is told as what it is: something to wait for, or something to mend."""

from __future__ import annotations

import pytest

from samband.errors import ConfigurationError
from samband.store import Store, Vault


@pytest.mark.postgres
async def test_database_that_does_not_exist_is_a_setting_to_mend(postgres_url: str, vault: Vault) -> None:
    head, _, query = postgres_url.partition("?")
    url = head.rsplit("/", 1)[0] + "/no_such_database" + ("?" + query if query else "")
    store = Store.open(url, vault=vault)
    with pytest.raises(ConfigurationError) as caught:
        await store.migrate()
    await store.close()
    assert ("database_refused", "SAMBAND_DATABASE_URL") == (caught.value.code, caught.value.field)
