"""What does each layer of a model cost on this device? Measured, fitted, kept as one YAML file."""

from hwprofiles.device import Difference
from hwprofiles.layers import Coefficients, LayerSpec, build, trace
from hwprofiles.measure import measure, time_models
from hwprofiles.profile import MissingLayers, Profile, ProfileError, load, save
from hwprofiles.timing import Measurement

__all__ = [
    "Coefficients",
    "Difference",
    "LayerSpec",
    "Measurement",
    "MissingLayers",
    "Profile",
    "ProfileError",
    "build",
    "load",
    "measure",
    "save",
    "time_models",
    "trace",
]
