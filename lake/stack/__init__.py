"""The local stack: the real parts as plain processes, on the loopback interface, no containers.

One module a part says how it is configured, started and known to be ready; `lifecycle` starts and
stops them all; `supervisor` keeps them running in between.
"""
