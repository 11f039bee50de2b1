"""A recipe's images, in memory or read from disk."""
