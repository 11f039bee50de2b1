"""Finished networks in the formats that they are deployed in."""
