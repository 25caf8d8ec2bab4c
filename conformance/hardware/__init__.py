"""Where it runs: the host as detected, profiles as data, and why one does not fit the other."""
