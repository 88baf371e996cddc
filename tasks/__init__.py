"""What may be asked, what may be announced, and on which queue it travels."""
