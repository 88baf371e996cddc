"""Engines, migrations, grants and backups."""
