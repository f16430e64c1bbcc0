"""Sets the interpreter up for a process whose threads share the work of one page."""

from __future__ import annotations

import gc
import sys

_SWITCH_S = 0.0003
"""How soon a thread that waits for the interpreter gets it. A page's commit is a dozen short statements in the database's
thread, beside a lane that converts the next page; at Python's default of 5 ms each of them waits that long twice."""

_YOUNG_OBJECTS = 50_000
"""A page is tens of thousands of short-lived objects without cycles; looking for cycles every 700 of them is a sixth of
the work (measured)."""


def tune_interpreter() -> None:
    """Lets threads take turns sooner and the cycle collector look less often. Call once, when everything is imported."""
    sys.setswitchinterval(_SWITCH_S)
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)
