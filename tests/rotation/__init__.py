"""A system with rotating refresh tokens behind HTTP, a plugin for it, and processes that use both."""
