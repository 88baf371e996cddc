"""What several handlers do to incidents and alert rules."""
