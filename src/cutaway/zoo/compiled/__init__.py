"""Small programs, compiled to the weights of a transformer: which edges its answers come along is known."""
