"""The Alembic migrations for the database schema."""
