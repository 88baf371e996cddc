"""Benchmarks: tocsin compared with a plain Celery application, and measurements of tocsin alone."""
