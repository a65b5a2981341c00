"""Training: Lightning modules, the Trainer's set-up, checkpoints, weights with their card."""

CODE = (
    *(f"ssl_sat.training.{name}" for name in ("setup", "engine", "feeding", "imported")),
    *(f"ssl_sat.training.{name}" for name in ("model_io", "normalisation", "distribution", "callbacks")),
    *(f"ssl_sat.data.{name}" for name in ("loader", "packed", "record_file", "ring", "device_store")),
    *(f"ssl_sat.data.{name}" for name in ("held_out", "statistics")),
    *(f"ssl_sat.encoders.{name}" for name in ("stem", "foreign", "checkpoint_file")),
    *(f"ssl_sat.encoders.{name}" for name in ("contract", "imagenet", "sizes", "weights")),
    "ssl_sat.methods.heads",
    "ssl_sat.seeding",
)  # what every training stage rests on, beside views and optimisers
