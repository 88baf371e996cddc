"""Alert rules: tables, entities, validation, evaluation."""
