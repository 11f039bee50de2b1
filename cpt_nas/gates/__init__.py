"""Bernoulli gates and where they sit in a model."""
