"""Virtual devices in virtual time: the production code, with another clock, another transport and another store."""
