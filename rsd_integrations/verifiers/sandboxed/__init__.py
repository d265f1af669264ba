"""What runs inside of a sandbox: the program that a model wrote, and its tests, in two processes.

Nothing here imports anything but the standard library and its neighbours, so that an empty file system will do and a
process starts at once. `rsd_integrations.verifiers.programs` starts both processes and carries lines between them.
"""
