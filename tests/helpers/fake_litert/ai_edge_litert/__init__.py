"""A stand-in for ai-edge-litert, whose "person" is a red dot: for tests without models.

Every point is where the dot is in the input. A blue image crashes the process, a
green one takes half a second.
"""
