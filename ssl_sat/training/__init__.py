"""Training: Lightning modules, the Trainer's set-up, checkpoints, weights with their card."""

CODE = (
    *(f"ssl_sat.training.{name}" for name in ("setup", "engine", "feeding", "imported")),
    *(f"ssl_sat.data.{name}" for name in ("loader", "packed", "record_file", "ring", "device_store")),
    *(f"ssl_sat.encoders.{name}" for name in ("stem", "foreign", "checkpoint_file")),
    "ssl_sat.methods.heads",
    "ssl_sat.seeding",
)  # what every training stage rests on, beside views and optimisers
