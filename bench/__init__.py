"""Benchmarks: tocsin against a plain Celery application, and tocsin's incident list and observations alone."""
