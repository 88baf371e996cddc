"""The command ledger, the outbox of events, and queries about what is waiting in them."""
