"""Tests for the Python client against real gateways, also over faulty connections."""
