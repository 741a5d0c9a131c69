"""Speed and fidelity, ours and of others, measured in one run. Never part of the tests."""
