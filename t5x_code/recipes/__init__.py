"""Gin recipes as one frozen Recipe, and what command lines share."""
