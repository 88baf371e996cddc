"""Commands, events, and the queues on which their hints travel."""
