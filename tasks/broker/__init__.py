"""The broker: exchanges, queues, guarded transports, hints and wake-ups."""
