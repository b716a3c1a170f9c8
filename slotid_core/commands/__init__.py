"""The commands of `slotid`, one file each: SUMMARY, DESCRIPTION, EXAMPLES, add_options(parser) and run(args).

Heavy packages are imported when they run, so that `slotid --help` answers soon.
"""
