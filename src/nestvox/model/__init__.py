"""A speaker model: encoder, head and calibration, loaded, saved and chosen."""
