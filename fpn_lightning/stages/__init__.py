"""LightningModules: losses, metrics and optimisation around a detector, without box arithmetic."""
