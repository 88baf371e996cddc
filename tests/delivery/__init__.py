"""Who is notified of what, and by which rule: the notifier with its planner and audiences."""
