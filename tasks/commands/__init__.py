"""Every command that may be sent: its fields, and the catalog of all of them."""
