"""Tools that several test modules share."""
