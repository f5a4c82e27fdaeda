"""Other engines on workload W, each a program in a venv of its own: `PROGRAM BOOTSTRAP EVENTS COMMANDS DIRECTORY`.

Each reads topic EVENTS from its beginning and writes `{"member_id", "anchor"}` to topic COMMANDS for every view of a
product that no order of it by the same member, and no later view, followed within two hours. Time is the record's
timestamp, per partition; it fires once the partition's time has passed due + 5 s. It runs until it is stopped. Each is
written as its own documentation advises, as fast as that allows, not tuned beyond.
"""
