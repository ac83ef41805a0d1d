"""One file a peer. Each has the same functions:

    PACKAGE                                     what has to be installed, "" for nothing
    IMPORTS                                     statements a user of it begins with, whose time is measured
    load(subject) -> opened                     the model as this peer opens it
    idle(opened, ids)                           a forward of the opened model, nothing asked
    READ   name -> read(opened, ids, n)         outputs of the first n blocks, each (1, pos, d_model); n is 1 or all
    PATCH  name -> patch(opened, ids, layer, value)   logits, the input of one block replaced by value (1, pos, d_model)
    SWEEP  name -> sweep(opened, subject)       (layer, pos): the input of one block at one token taken from the clean run, and what the
                                                difference of the two answers becomes
    GENERATE name -> generate(opened, ids, layer)     ids (1, prompt and new tokens) of subjects.GREEDY, and the output of one block at every step
    PACKED name -> packed(opened, subject)      what 16 small bodies, each on a prompt of its own, bring back

A peer that has no way of doing one of these has an empty table.

The names say which way of writing it is measured, where a peer has several. Each way is the one of the peer's own documentation.
"""

NAMES = ("hooks", "cutaway_peer", "nnsight_peer", "transformer_lens_peer", "pyvene_peer")
