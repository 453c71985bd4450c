"""Showing: tables, plots and drawings for people."""
