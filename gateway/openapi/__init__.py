"""The OpenAPI document, built from the endpoint table, the command classes and the entities' declarations."""
