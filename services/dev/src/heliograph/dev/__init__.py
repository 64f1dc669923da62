"""All of Heliograph in one process, in memory: for a first look (`heliograph dev`) and for people's own unit tests.

The services are the real ones, composed as their processes compose them; only the stores are memory. So what it answers
is what an installation answers, but for this: nothing outlives the process, whatever an answer calls durable.
"""
