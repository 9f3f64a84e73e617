"""What is trained, on what and how: the file, its sections, and what means nothing in it."""
