"""How a process finds out where log, store and executor are, and how it opens them.

file      `hagd.toml`
settings  every setting of a service: name, type, default, meaning
sources   reads settings: flag > environment > file > default, and remembers which it was
security  whom a service lets in
config    the same as frozen values, contradictions refused
opening   opens log, store and run state, and refuses what cannot carry several services
"""
