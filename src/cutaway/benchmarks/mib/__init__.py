"""MIB, a mechanistic interpretability benchmark (Mueller et al. 2025, arXiv 2504.13151): does a method find the circuit, and the variables in it?"""
