"""HTTP parsing, responses, pagination and the request log, without any knowledge of the domain."""
