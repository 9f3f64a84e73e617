"""For users of other projects."""
