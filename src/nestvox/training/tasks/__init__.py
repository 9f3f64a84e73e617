"""What can be trained: a rotation, a head from a cache, a network from audio."""
