"""The notifier, which decides who is notified of an event, by which rule and through which channel."""
