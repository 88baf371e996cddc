"""The worker: claim commands and apply them in batches."""
