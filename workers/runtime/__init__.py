"""Building blocks of long-running processes: polling, claiming events, deferral, readiness, imports."""
