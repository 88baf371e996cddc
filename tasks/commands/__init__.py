"""The commands: a class for each, the types of their fields, and the catalog of all."""
