"""Programs that call the API with generated clients. They are checked with the packages that the generators make."""
