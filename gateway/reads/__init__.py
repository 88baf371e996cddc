"""Queries of the read endpoints, filtered for the caller."""
