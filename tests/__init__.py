"""The test suite; a package, so that `tests.support` can be imported whatever starts it."""
