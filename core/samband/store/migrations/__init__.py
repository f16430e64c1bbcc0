"""The schema's history. `samband.store.schema` runs it; nothing else needs to."""
