"""Database engines, migrations, grants and backups."""
