"""Tests of failures: killed processes, restarted servers, and duplicate, lost or malformed messages."""
