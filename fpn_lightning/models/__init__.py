"""The paper's parts as plain `nn.Module`s; nothing here knows of Lightning."""
