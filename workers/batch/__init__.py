"""A batch of commands: its facts, each command's context, and the changes to write."""
