"""Sending deliveries: claiming due ones, sending each through its channel, and recording every attempt."""
