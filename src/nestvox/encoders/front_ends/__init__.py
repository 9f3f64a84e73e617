"""From samples to what a network takes: log-mel energies and Kaldi's filter banks."""
