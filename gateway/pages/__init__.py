"""Web pages for people: the page about an incident, the inbox, unsubscribing, logging in."""
