"""The parts of the paper's models as ``nn.Module``s that do not depend on Lightning."""
