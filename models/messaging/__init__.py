"""The command ledger, the event outbox, canaries, and queries for waiting commands."""
