"""What every long-running process needs: polling, deferral, readiness, imports."""
