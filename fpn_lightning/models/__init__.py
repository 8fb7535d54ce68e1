"""The parts of the paper's models as plain ``nn.Module``s, independent of Lightning."""
