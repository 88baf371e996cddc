"""The worker, which claims commands and applies them in batches."""
