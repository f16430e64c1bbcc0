"""The way to drop points: what the operator allows, and opening one."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from samband.http.egress import EgressPolicy
from samband.redaction import Redactor
from samband.twin.folder import FolderPlace
from samband.twin.place import Place, trouble
from samband.twin.points import FolderPoint, Point, PointSecret
from samband.twin.sftp import opened_sftp

__all__ = ["Doors"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """What the operator allows of drop points.

    Attributes:
        drop_root: Below it every folder is; None refuses them.
        egress: Which SFTP servers may be reached.
        redactor: Learns what signs in there.
    """

    drop_root: Path | None = None
    egress: EgressPolicy = field(default_factory=EgressPolicy)
    redactor: Redactor = field(default_factory=Redactor)

    @contextlib.asynccontextmanager
    async def opened(
        self, point: Point, secret: PointSecret | None, *, organization_id: str, plugin: str
    ) -> AsyncIterator[Place]:
        """Gives a drop point to work with.

        Raises:
            UnavailableError: It cannot be used now; nothing was written.
            ConfigurationError: What is needed for it is not installed.
        """
        if isinstance(point, FolderPoint):
            if self.drop_root is None:
                raise trouble(
                    "The host has no drop root, so nothing can be put into a folder.", code="drop_root_missing",
                    hint="Whoever runs the host sets SAMBAND_DROP_ROOT.",
                )  # fmt: skip
            yield FolderPlace(self.drop_root, (organization_id, plugin, *point.parts))
            return
        secret = secret or PointSecret()
        for part in (secret.password, secret.private_key, secret.passphrase):
            if part is not None:
                self.redactor.add(part)
        async with opened_sftp(point, secret, self.egress) as place:
            yield place
