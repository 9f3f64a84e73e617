"""Known corpora and known layouts to utterance tables, one file each."""
