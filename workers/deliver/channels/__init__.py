"""The channels that send deliveries, independent of each other."""
