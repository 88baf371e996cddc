"""The published descriptions of the API, as other people's linters and generators of clients read them."""
