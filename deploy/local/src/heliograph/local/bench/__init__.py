"""`make bench`: what the product costs, measured on servers of its own, as tables and gates.

Every section is a function of the rig that adds rows to a report. A section must never use a server that somebody
else uses, and must say what was lost, refused or late: a cheap delivery that did not happen is no delivery.
`docs/benchmarks.md` says how to read the numbers.
"""
