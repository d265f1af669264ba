"""Token-level speculation: proposers of tokens, and the rules by which the target keeps them.

A *proposer* proposes a chain or a tree of tokens, the target verifies them in one forward pass, and an *acceptance
rule* decides which are kept. The engine (`inprocess/`) shares passes and rolls back caches.
"""
