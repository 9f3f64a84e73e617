"""Features of augmented variants, from which heads are trained."""
