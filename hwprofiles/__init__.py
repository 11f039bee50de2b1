"""What does each layer of a model cost on this device? Measured, fitted, kept as one YAML file."""

from hwprofiles.device import Difference
from hwprofiles.layers import Coefficients, LayerSpec, build, trace
from hwprofiles.profile import MissingLayers, Profile, ProfileError, load, save

__all__ = [
    "Coefficients",
    "Difference",
    "LayerSpec",
    "MissingLayers",
    "Profile",
    "ProfileError",
    "build",
    "load",
    "save",
    "trace",
]
