"""Decentralised optimisation: machines that talk only to their neighbours in a graph, without rounds and without a server.

Start with `surefoot.decentralized.problem.linear_consensus` (data over the nodes of a graph) and `event_gossip.EventGossip`.
"""
