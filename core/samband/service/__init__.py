"""The integration service: one object under the HTTP API, the command line and Python callers alike."""

from samband.service.parts import Bell
from samband.service.service import Service

__all__ = ["Bell", "Service"]
