"""Attacks from another process against a running cluster, each expected to fail, each known to bite.

    scene       what an attacker knows: everything but keys
    arms        the identities that an attacker may hold: enrolled, stolen, foreign, expired, crafted, none
    attacker    the attacker's process: one attack, told on standard output whether it reached its goal
    attacks/    the attacks themselves, by the wire that they use
    weakened    a member of the cluster that is started with one defence taken out
    cases       which attack, with which arms, against which defence, and what the audit says of it
    trail       the audit events of the running cluster

`test_attacks` runs every case against the real cluster: it must fail, be reported, and leave the victim alive.
`test_bite` runs the same case against a cluster without that one defence: it must succeed there, or the first
test would prove nothing.
"""
