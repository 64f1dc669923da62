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

STORM_LATENCY_RATIO = 1.5
STORM_LATENCY_MS = 10.0
"""Another tenant's p99 during somebody's storm: 1.5 times its quiet one, or 10 ms more where that is higher. Nobody
waits longer for an answer than they would in an hour that is a little busier."""
RESUMED_P99_S = 20.0
"""5,000 clients at 500 handshakes a second take 10 s at the least; backoff and the unlucky get as long again."""
BYSTANDER_P99_MS = 100.0
"""Who is connected to an edge that takes in another one's clients: below what a person notices."""
DRAIN_STEEPNESS = 1.3
"""The fullest second of a drain by its mean: neighbours must be able to take in what comes."""
CONFIRMED_WITHIN_S = 15.0
"""From Kafka's return until the last message that was accepted meanwhile is known to be durable."""
DEFERRED_WITHIN_S = 10.0
"""From Redis's return until the last control message that was taken meanwhile is delivered."""
SLOW_READER_MARKS = 2.0
"""What a reader that takes next to nothing may cost its edge, in hard marks of its queue."""
SOAK_GROWTH_PERCENT = 1.0
"""Of memory and descriptors in 10 minutes, after warm-up: a service that grows faster needs restarts."""
