"""Trained weights that somebody has: read without running code, matched with a network, tried."""
