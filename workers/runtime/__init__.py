"""Building blocks for long-running processes: polling, claiming events, deferral, readiness, imports."""
