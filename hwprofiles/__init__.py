"""What does each layer of a model cost on this device? Measured, fitted, kept as one YAML file."""

from hwprofiles._version import __version__
from hwprofiles.allocator import keep_freed_memory
from hwprofiles.calibration import calibrate, calibration_networks, uncalibrated
from hwprofiles.candidates import Candidate, Executed, time_candidates
from hwprofiles.cost_profile import MissingLayers, Profile, ProfileError
from hwprofiles.device import Difference
from hwprofiles.layers import Coefficients, LayerSpec, build
from hwprofiles.measure import measure, time_models
from hwprofiles.processor import usable_cores
from hwprofiles.profile_file import load, save
from hwprofiles.target import Target, require_target
from hwprofiles.time_limit import TimeLimit
from hwprofiles.timing import Measurement
from hwprofiles.tracing import trace
from hwprofiles.validation import validate, validation_networks, with_validation

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
    "Target",
    "TimeLimit",
    "__version__",
    "build",
    "calibrate",
    "calibration_networks",
    "keep_freed_memory",
    "load",
    "measure",
    "require_target",
    "save",
    "time_candidates",
    "time_models",
    "trace",
    "uncalibrated",
    "usable_cores",
    "validate",
    "validation_networks",
    "with_validation",
]
