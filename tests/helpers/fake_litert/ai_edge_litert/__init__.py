"""A stand-in for ai-edge-litert in tests without models; its "person" is a red dot.

Every point is at the position of the dot in the input. A blue image crashes the process, and a
green image takes half a second.
"""
