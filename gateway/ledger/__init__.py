"""Acceptance of commands into the ledger, and waits for their outcomes."""
