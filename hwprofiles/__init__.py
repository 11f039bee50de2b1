"""What does each layer of a model cost on this device? Measured, fitted, kept as one YAML file."""

from hwprofiles.calibration import Candidate, Executed
from hwprofiles.device import Difference
from hwprofiles.layers import Coefficients, LayerSpec, build
from hwprofiles.measure import measure, time_models
from hwprofiles.profile import MissingLayers, Profile, ProfileError, load, save
from hwprofiles.timing import Measurement
from hwprofiles.tracing import trace

__all__ = [
    "Candidate",
    "Coefficients",
    "Difference",
    "Executed",
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
