"""What CPU kernels are written with: Numba, NumPy arrays in and out, no torch. Plugins use it as the engine does.

``cache`` declares kernels, decides where their compiled code lives and how many threads run them; ``vec`` is the
16-lane vector layer; ``elementary`` has exponentials and logarithms of vectors; ``workspace`` keeps scratch arrays.
"""
