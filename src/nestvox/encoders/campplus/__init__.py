"""CAM++: a densely connected network over time whose layers are gated by their context."""
