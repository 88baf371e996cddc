"""The relay: publish events, and sweep up what was forgotten."""
