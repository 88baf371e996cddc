"""Server-sent events: the feed of new events and its broadcaster."""
