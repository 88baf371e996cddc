"""`tocsin maintain`: delete what is older than it has to be kept."""

from __future__ import annotations

from typing import Annotated

import typer

from models.operations.retention import RetentionPass
from workers.cli.common import DataOption, JsonOption, print_json, print_line
from workers.cli.database import open_engine
from workers.settings import RetentionSettings


def maintain(
    *,
    keep_days: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Days to keep (TOCSIN_KEEP_DAYS; 90). 0 keeps everything.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    data: DataOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete old finished commands, processed events, ended deliveries and read inbox items, as a relay does daily."""
    days = RetentionSettings.from_environment().keep_days if keep_days is None else keep_days
    retention = RetentionPass(days, dry_run=dry_run)
    with open_engine(data) as engine:
        continues = True
        while continues:
            with engine.begin() as connection:
                continues = retention.step(connection)
    if as_json:
        print_json({"keepDays": days, "dryRun": dry_run, "deleted": retention.deleted})
        return
    verb = "would be deleted" if dry_run else "deleted"
    for name, count in retention.deleted.items():
        print_line(f"{name}: {count} {verb}")
