"""The repository itself: packaging, catalog, migrations, deployment files, and documentation."""
