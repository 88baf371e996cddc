"""The words, the rules, the tables."""
