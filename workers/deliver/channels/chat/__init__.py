"""The chat channel: messages to Slack, Discord, Teams and other services, sent through Apprise."""
