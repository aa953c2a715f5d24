"""The browser viewer: pictures drawn here and shown there, with viser as the page and the wire.

`studio.viewer.app.Viewer` puts it together. A browser tells where its camera is (`session`), a thread of its own draws
what it sees (`drawing`) when the model may be used (`turns`), at a size that keeps up with the camera (`resolution`).
"""
