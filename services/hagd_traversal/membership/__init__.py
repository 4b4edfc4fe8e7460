"""The graph network that scores how likely a node, or a group of nodes, belongs to the circuit."""
