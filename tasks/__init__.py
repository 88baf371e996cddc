"""Commands, events, the broker, and code that every process uses: settings, logging and start-up checks."""
