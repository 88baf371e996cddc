"""The Python client, against real gateways and through bad connections."""
