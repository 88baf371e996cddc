"""Inbox items, decisions and deliveries."""
