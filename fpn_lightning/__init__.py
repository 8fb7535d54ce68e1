"""Feature Pyramid Networks for Object Detection (Lin et al., CVPR 2017), every table one config and one command."""
