from hypothesis import settings

# No test is about the clock: a drawn example may take as long as a busy machine takes.
settings.register_profile("no clock", deadline=None)
settings.load_profile("no clock")
