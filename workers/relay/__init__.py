"""The relay: publishes events and sweeps overdue commands."""
