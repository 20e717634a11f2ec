"""What the chapters draw: from numbers, or from a stored report, to a figure or a table.

Needs matplotlib, which ``import wdtr_lite`` does not.
"""
