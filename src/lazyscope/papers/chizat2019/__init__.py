"""Figures and theorems of Chizat, Oyallon & Bach 2019."""
