"""Is it true? Labels put to the test on fresh examples."""
