"""HTTP without knowledge of the domain: parsing, responses, pagination, request log."""
