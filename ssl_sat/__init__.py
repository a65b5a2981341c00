"""ssl_sat: self-supervised pretraining and out-of-distribution evaluation for satellite imagery."""

__version__ = "0.1.0"
