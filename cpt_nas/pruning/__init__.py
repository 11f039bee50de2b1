"""What can be cut from a model, what is left of it, and the only place that cuts."""
