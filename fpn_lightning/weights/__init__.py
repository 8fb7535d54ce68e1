"""Reading and writing weights: checkpoints of this project, of torchvision and of detectron2."""
