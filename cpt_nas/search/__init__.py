"""The search: a loop's calls, two update rules, and what they know of every gate."""
