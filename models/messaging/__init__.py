"""The command ledger, the outbox of events, and what waits in them."""
