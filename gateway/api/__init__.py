"""From a request to a command and back: endpoints, pipeline, submission."""
