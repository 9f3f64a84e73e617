"""Everything that exists only for users of clovaai/voxceleb_trainer and its forks."""
