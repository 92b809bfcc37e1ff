//! Two sessions against each other, and one against a peer that breaks the rules.

mod pair;
mod rules;
mod seeds;
mod strict;
