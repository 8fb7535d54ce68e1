"""LightningModules: what is trained, and how. No box arithmetic here."""
