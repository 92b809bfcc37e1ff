//! A deterministic world of Epic Server nodes, run from one seed.
