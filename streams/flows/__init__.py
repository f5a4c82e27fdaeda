"""Journeys: what follows a match. A campaign's flow is read, checked, compiled and run here, purely and on the log."""
