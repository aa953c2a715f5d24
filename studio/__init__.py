"""neural-studio: a plugin-based studio for 3D neural rendering and generation."""

__version__ = "0.1.0"
