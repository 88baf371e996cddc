"""Metrics for Prometheus: what processes have in common, and the gauges of the ledger."""
