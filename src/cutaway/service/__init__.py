"""The shared server: one model, many users, nothing lost, no one's code."""
