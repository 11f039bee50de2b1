"""timm's families: one file each."""
