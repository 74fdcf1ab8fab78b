"""The keyholder: opens sums of at least T Updates and nothing less, adds the noise, keeps the budget.

It never holds an Update: what it is shown has the hash of the payload in the payload's place. All privacy
rests on the checks of this room; those of the coordinator are for robustness only.
"""
