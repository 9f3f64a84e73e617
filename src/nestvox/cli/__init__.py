"""The command line: one file a command group, each a thin skin on a function."""
