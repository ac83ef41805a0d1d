"""How do the parts that cause a behaviour work together?"""
