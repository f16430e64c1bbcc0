"""How a broken promise is told to the plugin's author."""

from __future__ import annotations

__all__ = ["broken"]


def broken(promise: str, found: str, *, see: str, way_out: str = "") -> str:
    """Gives the message of a failed promise: what was promised, what was found, where it is written, what to do.

    Args:
        promise: The promise, as near to the documentation's own words as can be.
        found: What the plugin did instead. Holds no member's data and no secret.
        see: Where the promise is documented, as an importable name.
        way_out: What the author can do, in the imperative.
    """
    lines = ["", "A promise to the host is broken.", f"  promised: {promise}", f"  found:    {found}"]
    lines += [f"  way out:  {way_out}"] if way_out else []
    return "\n".join([*lines, f"  see:      {see}", ""])
