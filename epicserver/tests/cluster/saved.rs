//! What the game has saved is read by every later version of it.

use epicserver::test::check_saved_states;

use crate::game::{Barrel, Player};
use crate::veterans::{new, old};

#[test]
fn what_was_saved_is_still_read() {
    check_saved_states::<(Player, Barrel, old::Veteran, new::Veteran)>(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/cluster/saved"
    ));
}
