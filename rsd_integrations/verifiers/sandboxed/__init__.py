"""The code inside a sandbox: runs the program written by a model, and its tests, in two processes.

These modules import only the standard library and each other, so that they work in an empty file system and a process
starts at once. `rsd_integrations.verifiers.programs` starts both processes and relays lines between them.
"""
