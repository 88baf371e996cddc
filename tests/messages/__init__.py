"""Every version of every message can still be read."""
