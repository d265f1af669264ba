"""Token-level speculation: what proposes tokens, and which of them the target keeps.

A *proposer* proposes a chain or a tree of tokens, the target verifies them in one forward pass, and an *acceptance
rule* decides which of them stay. How passes are shared and caches rolled back is the engine's (`inprocess/`).
"""
