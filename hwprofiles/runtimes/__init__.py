"""Where networks run: one file a runtime."""
