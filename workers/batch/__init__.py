"""One batch: its facts, the context of each command, and the changes to write."""
