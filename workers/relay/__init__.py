"""The relay, which publishes events and sends hints for overdue commands."""
