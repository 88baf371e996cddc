"""`tocsin migrate`: the schema comes to head."""

from __future__ import annotations

from workers.cli.database import found_engine
from workers.cli.frame import AsJson, Data, say, say_json


def migrate(*, data: Data = None, as_json: AsJson = False) -> None:
    """Bring the schema to head; safe to run from many hosts at once."""
    from models.migrate import migrate as bring_to_head

    with found_engine(data) as engine:
        before, now = bring_to_head(engine)
    if as_json:
        say_json({"before": before, "now": now})
    elif before == now:
        say(f"the schema is at {now} already")
    else:
        say(f"the schema came from {before or 'nothing'} to {now}")
