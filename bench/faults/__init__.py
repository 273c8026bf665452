"""Trainings with a known fault and trainings without one: what does `check_health` say about each?"""
