"""How training draws: laws of its times, and couplings of data and noise."""
