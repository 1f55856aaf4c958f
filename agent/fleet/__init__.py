"""Many machines at once: plans from a base and a list, and what they would come to. Pure."""
