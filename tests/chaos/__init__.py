"""Chaos: real processes, really killed, while apps go on writing; then every promise is looked at.

python -m tests.chaos --minutes 3 --out build/chaos
"""
