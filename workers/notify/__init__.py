"""Who hears of an event, by which rule: plan, decide, write down."""
