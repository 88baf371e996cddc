"""The test suite, one folder per kind of test. Shared builders, brokers and fixtures are in this folder."""
