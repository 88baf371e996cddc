"""The commands: a class for each, their field types, and the catalog of all commands."""
