"""Alert rules: tables, entities, validation and evaluation."""
