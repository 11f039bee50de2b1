"""The version of the distribution that holds hwprofiles and cpt_nas."""

__version__ = "0.1.0"
