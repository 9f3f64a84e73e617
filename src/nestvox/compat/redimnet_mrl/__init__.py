"""Everything that exists only for users of redimnet-mrl."""
