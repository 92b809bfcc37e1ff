//! The macros of Epic Server.
