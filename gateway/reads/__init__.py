"""Queries for the read endpoints, limited to what the caller may read."""
