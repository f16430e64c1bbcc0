"""The process around it all: composition, data directory, the bundled queue server, the log."""
