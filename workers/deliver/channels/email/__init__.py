"""The e-mail channel: one message per recipient, rendered once, and sent over pooled SMTP connections."""
