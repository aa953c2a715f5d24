"""What `studio plugins new` starts a plugin from: working modules, whose names it replaces.

In each folder below, ``studio.templates.KIND`` becomes the new package, ``Template`` the beginning of its class names,
and the string ``"template"`` the plugin's name.
"""
