"""What to train, where the Task does not say: the subset that learns most within the limits of the weakest device.

groups       every way of training every layer
benefit      what each would gain, by public examples, by scouting, or by what is usual
knapsack     the best choice of one way a layer, under several limits at once
fitting      how a subset is played within the limits: examples at once, recomputing, bits
rehearsal    what a fitted subset learns of the public examples in a short training on the engine
search       all of it, in order
front, drawing   what was found: a table, a picture, JSON
"""
