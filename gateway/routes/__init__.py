"""Thin HTTP endpoints, one module per resource; each declares its endpoints in ``ENDPOINTS``."""
