"""The version of the distribution; read without importing anything else."""

__version__ = "0.1.0"
