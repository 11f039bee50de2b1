"""Training by a recipe, and the run folder that it leaves."""
