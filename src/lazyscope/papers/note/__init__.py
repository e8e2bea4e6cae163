"""Figures and claims of the note (Bahaduri & Goudelin)."""
