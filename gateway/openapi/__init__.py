"""The OpenAPI document, which is built from the endpoint table, the command classes and the entity declarations."""
