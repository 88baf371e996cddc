"""The operators' pages under `/ops/`: what they see of tocsin in a browser, and what they may do there."""
