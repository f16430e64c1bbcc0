"""The file twin: what goes out as a file instead of over an API, with the same keys, numbers and ledger.

    twin = Twin(store, adapter, Doors(drop_root=…, egress=…, redactor=…))
    async for receipt in twin.send(connection, batch, lease=lease, route="file"): …
    async for receipt in twin.find(connection, sought): …

Routes: ``file`` is delivered to the integration's drop point, ``download`` is kept for a person to fetch.
"""

from samband.twin.doors import Doors
from samband.twin.points import FolderPoint, Point, PointSecret, SftpPoint, parse_point
from samband.twin.twin import ROUTES, Twin

__all__ = ["ROUTES", "Doors", "FolderPoint", "Point", "PointSecret", "SftpPoint", "Twin", "parse_point"]
