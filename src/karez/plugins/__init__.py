"""The built-in plugins, in the same shape as a user's own folder: <kind>/<type>.py."""
