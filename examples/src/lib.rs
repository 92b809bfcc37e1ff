//! Example programs of Epic Server.
