"""The recipe: its types (`model`), reading it (`load`), and the part of it that reaches each job (`parts`)."""
