"""Cost profiles judged on random cut networks."""
