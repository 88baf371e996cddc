"""The domain model that all processes share: enums, refusals, policy, entities and tables."""
