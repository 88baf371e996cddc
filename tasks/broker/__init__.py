"""The broker: exchanges and queues, guarded transports, hints, wake-ups."""
