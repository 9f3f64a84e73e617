"""Training: from a frozen encoder to a model that is measured and saved."""
