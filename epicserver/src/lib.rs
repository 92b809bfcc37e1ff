//! Virtual objects that call each other with plain async methods.
