"""Rooms named after what they prove."""
