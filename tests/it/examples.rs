//! The examples run, and say what the README shows.
