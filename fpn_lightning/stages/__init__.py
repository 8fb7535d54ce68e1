"""LightningModules that train and evaluate a detector: losses, metrics and optimisation."""
