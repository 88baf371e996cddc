"""Tests for the notifier, its planner and its audiences: who is notified of what, and why."""
