"""Who hears of an event, by which channel, by which rule."""
