"""What the house says of itself holds: packages, catalog, documentation."""
