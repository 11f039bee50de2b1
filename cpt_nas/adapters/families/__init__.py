"""The families of timm's models, one file each."""
