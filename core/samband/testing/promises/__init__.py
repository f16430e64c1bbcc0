"""The promises of the hook specifications, one test each, grouped by what an author works on."""
