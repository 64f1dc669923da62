"""What must not get worse, each bound with its reason. Ratios are of the same run: a slow machine is slow for both."""

EDGE_CPU_RATIO = 1.5
"""CPU per publication with the durable log, and per delivery in fan-out, against the reference. The reference checks
no token, judges no duplicate in full and counts nothing: 30 % is what those may cost, and another 20 % what quotas,
serving, cursors and presence do on the path."""
IDLE_MEMORY_RATIO = 1.1
"""Memory of an idle connection against the reference: ten thousands of agents are idle most of the time."""
ROUTER_COST_RATIO = 3.0
"""CPU per record against a bare consume loop that sends the same Redis commands: checking, grouping and indexing may
cost twice what reading does."""
REPLAY_COST_RATIO = 3.0
"""Time and CPU against a bare scan of what must be read: finding the messages among others' and building frames."""
