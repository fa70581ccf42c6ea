"""Inputs of batch inference that list their images one by one: how each kind lists and reads."""
