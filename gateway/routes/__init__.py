"""The HTTP endpoints, in one module per resource. Each module declares its endpoints in ``ENDPOINTS``."""
