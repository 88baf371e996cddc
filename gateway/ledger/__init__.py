"""The acceptance of commands into the ledger, and the wait for their outcomes."""
