//! The transport contract of Epic Server: frames, links, buffer pools, conformance suite, loopback.
