"""The search: the calls of a loop, the update rules, and what they know of every gate."""
