//! The thread-per-core runtime of Epic Server: objects, calls, fabric.
