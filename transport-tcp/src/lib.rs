//! Epic Server frames over TCP.
