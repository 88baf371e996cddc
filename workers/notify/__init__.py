"""The notifier: who is notified of an event, by which rule, through which channel."""
