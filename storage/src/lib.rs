//! The storage contract of Epic Server: store, coordinator, save envelope, memory implementations.
