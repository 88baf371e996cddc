"""Connections, migrations, grants and backups."""
