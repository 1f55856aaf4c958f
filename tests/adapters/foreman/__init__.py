"""A Foreman to test against, and the agent's own code against it."""
