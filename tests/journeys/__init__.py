"""Whole ways through the system, with real servers and real processes."""
