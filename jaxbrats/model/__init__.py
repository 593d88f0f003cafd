"""Pure functions of arrays: U-Net, blocks, heads, losses, augmentation, convolution, counts."""
