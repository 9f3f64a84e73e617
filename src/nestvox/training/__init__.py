"""Recipes, tasks and the loop that runs them; `nestvox.train` runs a recipe."""
