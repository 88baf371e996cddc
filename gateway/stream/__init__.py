"""Server-sent events: the feed of new events, and the broadcaster that sends them to open streams."""
