"""Procedural table-top still life: meshes, textures and materials, built from a seed with numpy and pillow alone."""
