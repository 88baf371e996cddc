"""The relay, which publishes events and hints at overdue commands."""
