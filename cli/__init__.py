"""The `embakery` command: the top floor. Each command imports the rooms it needs, and no other, when it runs."""
