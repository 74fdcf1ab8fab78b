"""Virtual devices in virtual time: the production logic, with only clock, transport and store swapped."""
