"""Inbox items, notification decisions and deliveries."""
