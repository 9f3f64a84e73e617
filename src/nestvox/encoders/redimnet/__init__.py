"""ReDimNet and ReDimNet2, built from what a checkpoint says."""
