"""Pure functions of arrays: convolution, U-Net, losses, scores. Knows no file and no config file."""
