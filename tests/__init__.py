"""The test suite, one package per kind of test. Shared builders, brokers and fixtures are in this package."""
