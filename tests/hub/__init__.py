"""A Hub on loopback, and the real client against it."""
