"""A bench module without a test, which must not pass."""
