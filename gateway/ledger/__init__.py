"""Accepting commands into the ledger, and waiting for their outcomes."""
