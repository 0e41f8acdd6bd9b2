//! The specification of the `fairlane` command: the real program, on real servers.
