"""The commands: their classes, their field types, and the catalog of all commands."""
