"""Commands, events, the broker, and what every process shares: settings, logging and start-up checks."""
