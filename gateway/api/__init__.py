"""The handling of API requests: endpoint declarations, the pipeline of checks, command submission and responses."""
